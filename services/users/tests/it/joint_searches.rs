//! Searches of many passengers that begin and end at once: they are stored together, and each is what it would be alone.

use std::time::Duration;

use futures_util::future::join_all;
use platform::On;
use serde_json::{Value, json};
use streams::UserId;
use streams::event::UserFinder;
use testing::{Backend, on_both_stores};

use crate::client::{Client, body, trip};
use crate::pods::{Cluster, HERE, Pod, THERE};

on_both_stores!(each_of_many_at_once_has_one_search_and_its_end);

const COUNT: usize = 40;

async fn many(pod: &Pod) -> Vec<(UserId, Client)> {
    let mut passengers = Vec::new();
    for n in 0..COUNT {
        let passenger = pod.passenger(&format!("+121255540{n:02}")).await;
        passengers.push((passenger, pod.connect(passenger, None).await));
    }
    passengers
}

async fn each_of_many_at_once_has_one_search_and_its_end(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut passengers = many(&pod).await;
    // Each by its socket and by a request as well.
    let begin = passengers.iter_mut().map(|(passenger, client)| async {
        let (by_socket, by_request) = tokio::join!(
            client.ack("finder.update", trip(THERE)),
            pod.command(*passenger, "finder.update", trip(THERE))
        );
        assert_eq!(Ok(&by_socket), by_request.as_ref(), "one search");
        by_socket
    });
    let begun: Vec<Value> = join_all(begin).await;
    let replaced: Vec<Value> =
        join_all(passengers.iter_mut().map(|(_, client)| client.ack("finder.update", trip(HERE)))).await;
    let no_search = || json!({"active": false});
    let ended: Vec<Value> =
        join_all(passengers.iter_mut().map(|(_, client)| client.ack("finder.update", no_search()))).await;
    assert_eq!(ended, replaced);
    let again: Vec<Value> =
        join_all(passengers.iter_mut().map(|(_, client)| client.ack("finder.update", no_search()))).await;
    assert!(again.iter().all(|ack| ack["request_id"].is_null()), "{again:?}");
    for (n, (_, client)) in passengers.iter_mut().enumerate() {
        let mut events = Vec::new();
        for _ in 0..4 {
            let finder: UserFinder = body(&client.event().await);
            events.push((finder.active, json!(finder.request_id)));
        }
        let (first, second) = (begun[n]["request_id"].clone(), replaced[n]["request_id"].clone());
        assert_ne!(first, second);
        assert_eq!(events, [(true, first.clone()), (false, first), (true, second.clone()), (false, second)]);
        client.quiet(Duration::from_millis(1)).await;
    }
    pod.stop().await;
}

/// A row that another transaction holds keeps its own passenger waiting, and nobody else.
#[tokio::test]
async fn nobody_waits_for_the_rows_of_another_passenger() {
    let cluster = Cluster::on(Backend::Postgres).await;
    let mut pod = cluster.pod("one").await;
    let mut passengers = many(&pod).await;
    let (held, mut client) = passengers.remove(0);
    let mut holder = cluster.store.begin().await.unwrap();
    let On::Postgres(pg) = holder.on() else { unreachable!() };
    sqlx::query("select from users where user_id = $1 for update").bind(held.0).fetch_all(&mut *pg).await.unwrap();
    let (mut waits, others) = (
        Box::pin(client.ack("finder.update", trip(THERE))),
        join_all(passengers.iter_mut().map(|(_, client)| client.ack("finder.update", trip(THERE)))),
    );
    tokio::select! {
        ack = &mut waits => panic!("its row is held: {ack}"),
        acks = others => assert_eq!(acks.len(), COUNT - 1),
    }
    drop(holder);
    assert!(waits.await["request_id"].is_string());
    pod.stop().await;
}
