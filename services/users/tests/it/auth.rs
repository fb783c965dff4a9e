//! A socket ends with its access token and with its sign-in, unless the client sends a new token in time.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use platform::token::ended::seal;
use platform::token::{ACCESS_TOKEN_S, Access};
use serde_json::json;
use streams::sign_ins::{EndedSignIn, SIGN_INS_ENDED};
use streams::{SignInId, UserId};
use testing::Backend;
use users::SocketRequest;

use crate::pods::Cluster;

/// A request with a token of this sign-in that is valid for so long.
fn request(cluster: &Cluster, user: UserId, sign_in: Option<SignInId>, valid_s: i64) -> SocketRequest {
    let expires_at = cluster.world.now() + TimeDelta::seconds(valid_s);
    SocketRequest::new(Access { user, sign_in, expires_at }, None)
}

fn token(cluster: &Cluster, user: UserId, sign_in: SignInId, valid_s: i64) -> serde_json::Value {
    let expires_at = cluster.world.now() + TimeDelta::seconds(valid_s);
    json!({"access_token": cluster.tokens.access_of(user, sign_in, expires_at)})
}

fn time(value: &serde_json::Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_socket_is_closed_with_4001_when_its_access_token_expires() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550601").await;
    let mut client = pod.connect_with(request(&cluster, user, None, ACCESS_TOKEN_S)).await;
    let began = cluster.world.now();
    assert_eq!(time(&client.welcome["expires_at"]), began + TimeDelta::seconds(ACCESS_TOKEN_S));
    let (frames, code) = client.end().await;
    assert_eq!((frames.len(), code), (0, 4001));
    assert_eq!((cluster.world.now() - began).num_seconds(), ACCESS_TOKEN_S);
    // One that has expired already does not open.
    assert_eq!(pod.open_with(request(&cluster, user, None, -1), 8).end().await.1, 4001);
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_token_of_the_same_user_keeps_the_socket_open() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let (user, other) = (pod.passenger("+12125550602").await, pod.passenger("+12125550603").await);
    let sign_in: SignInId = cluster.world.id();
    let mut client = pod.connect_with(request(&cluster, user, Some(sign_in), 60)).await;
    let began = cluster.world.now();
    for wrong in [json!({"access_token": "a.b.c"}), token(&cluster, user, sign_in, -1)] {
        assert_eq!(client.refused("auth.refresh", wrong).await, "unauthorized access_token");
    }
    assert_eq!(client.refused("auth.refresh", token(&cluster, other, sign_in, 900)).await, "forbidden access_token");
    assert_eq!(client.refused("auth.refresh", json!({})).await, "invalid_field access_token");
    tokio::time::sleep(Duration::from_secs(50)).await;
    let acked = client.ack("auth.refresh", token(&cluster, user, sign_in, 120)).await;
    assert_eq!((time(&acked["expires_at"]) - began).num_seconds(), 170);
    // It may also end earlier than the one before.
    let acked = client.ack("auth.refresh", token(&cluster, user, sign_in, 30)).await;
    assert_eq!((time(&acked["expires_at"]) - began).num_seconds(), 80);
    client.quiet(Duration::from_secs(29)).await;
    assert_eq!(client.end().await.1, 4001);
    // What was refused changed nothing.
    let mut client = pod.connect_with(request(&cluster, user, Some(sign_in), 60)).await;
    client.refused("auth.refresh", token(&cluster, other, sign_in, 900)).await;
    client.quiet(Duration::from_secs(59)).await;
    assert_eq!(client.end().await.1, 4001);
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_sockets_of_an_ended_sign_in_are_closed_and_none_opens() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550604").await;
    let [ended, new]: [SignInId; 2] = [cluster.world.id(), cluster.world.id()];
    let mut old = pod.connect_with(request(&cluster, user, Some(ended), 900)).await;
    let mut refreshed = pod.connect_with(request(&cluster, user, Some(ended), 900)).await;
    let mut unnamed = pod.connect_with(request(&cluster, user, None, 900)).await;
    refreshed.ack("auth.refresh", token(&cluster, user, new, 900)).await;
    let token_before = token(&cluster, user, ended, 900);
    let now = cluster.world.now();
    let end = EndedSignIn { sign_in_id: ended, user_id: user, ended_at: now };
    cluster.bus.publish_core(SIGN_INS_ENDED, seal(&cluster.tokens, &[end])).await.unwrap();
    assert_eq!(old.end().await.1, 4001);
    assert!(cluster.world.now() - now < TimeDelta::seconds(1));
    // A socket that goes by another sign-in by now stays, and cannot go back.
    assert_eq!(refreshed.refused("auth.refresh", token_before).await, "unauthorized access_token");
    refreshed.ack("mailbox.ack", json!({"seq": 0})).await;
    unnamed.ack("mailbox.ack", json!({"seq": 0})).await;
    // A token that was verified just before is of no use.
    assert_eq!(pod.open_with(request(&cluster, user, Some(ended), 900), 8).end().await.1, 4001);
    pod.users.end_sign_ins(&[new]);
    assert_eq!(refreshed.end().await.1, 4001);
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_command_that_hangs_does_not_keep_a_signed_out_socket_open() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550605").await;
    let sign_in: SignInId = cluster.world.id();
    let mut client = pod.connect_with(request(&cluster, user, Some(sign_in), 900)).await;
    // Nobody answers for rides here.
    let mut rides = cluster.bus.subscribe("rides.command", None).await.unwrap();
    let ride = cluster.world.id::<uuid::Uuid>();
    client.text(json!({"id": 1, "type": "ride.arrive", "data": {"ride_id": ride}}).to_string()).await;
    rides.next().await.unwrap();
    let began = cluster.world.now();
    pod.users.end_sign_ins(&[sign_in]);
    assert_eq!(client.end().await.1, 4001);
    assert!(cluster.world.now() - began < TimeDelta::seconds(2));
    pod.stop().await;
}
