//! The end of a search is final: its offers are closed with it, both parties receive it once, and an acceptance that is on its way
//! loses, unless rides says that the search has become a ride.

use std::time::Duration;

use serde_json::{Value, json};
use streams::event::{MatchRejected, RejectReason};
use streams::ride_command::{EndSearch, RIDE_COMMANDS, RideReply, SEARCH_FULFILLED};
use streams::{Event, RequestId, RideId, RideStatus, Service, UserId};
use testing::{Backend, on_both_stores};
use tokio::task::JoinHandle;

use crate::client::{Client, id_of, match_id, trip};
use crate::commands::Pair;
use crate::pods::{Cluster, HERE, THERE};

on_both_stores!(
    an_end_closes_the_offer_and_tells_both_parties_once,
    another_trip_closes_the_offer_of_the_old_search,
    an_offer_of_an_ended_search_is_closed_when_it_arrives,
    an_end_wins_over_an_acceptance_if_rides_agrees,
    a_search_that_has_become_a_ride_does_not_end,
    without_an_answer_of_rides_an_accepted_search_stays,
    an_offer_whose_end_arrives_first_is_closed,
    superseded_waits_for_an_end_on_its_way,
    of_an_end_and_an_acceptance_at_once_one_wins,
);

fn no_search() -> Value {
    json!({"active": false})
}

/// Answers the next requests to rides with these replies; returns the requests.
async fn rides(cluster: &Cluster, replies: Vec<RideReply>) -> JoinHandle<Vec<EndSearch>> {
    let mut requests = cluster.bus.subscribe(RIDE_COMMANDS, Some("rides")).await.unwrap();
    let bus = cluster.bus.clone();
    tokio::spawn(async move {
        let mut received = Vec::new();
        for reply in replies {
            let message = requests.next().await.unwrap();
            received.push(serde_json::from_slice(&message.payload).unwrap());
            bus.publish_core(&message.reply.unwrap(), serde_json::to_vec(&reply).unwrap().into()).await.unwrap();
        }
        received
    })
}

fn refusal(code: &str) -> RideReply {
    RideReply::Error { code: code.to_owned(), message: "no".to_owned(), field: None, allowed_at: None }
}

/// As match publishes it.
fn by_match(pair: &Pair, reason: RejectReason, cluster: &Cluster) -> Event {
    let Event::MatchRejected(e) = cluster.rejected(&pair.found, reason) else { unreachable!() };
    Event::MatchRejected(MatchRejected { rejected_at: MatchRejected::time(Service::Match, e.rejected_at), ..e })
}

impl Client {
    /// The reasons of `match.rejected` up to a marker: a search of this user.
    async fn rejections(&mut self, cluster: &Cluster, user: UserId) -> Vec<String> {
        cluster.publish(&cluster.search(user)).await;
        let mut reasons = Vec::new();
        loop {
            let event = self.event().await;
            match event["type"].as_str().unwrap() {
                "match.rejected" => reasons.push(event["data"]["reason"].as_str().unwrap().to_owned()),
                "user.finder" if event["data"]["active"] == true => return reasons,
                _ => {}
            }
        }
    }
}

async fn an_end_closes_the_offer_and_tells_both_parties_once(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 31, 60).await;
    let request = json!({"request_id": pair.found.request_id});
    assert_eq!(pair.p.ack("finder.update", no_search()).await, request);
    assert_eq!(pair.d.refused("match.accept", match_id(&pair.found)).await, "offer_closed -");
    for client in [&mut pair.d, &mut pair.p] {
        let event = client.event_of("match.rejected").await;
        assert_eq!(
            (&event["data"]["reason"], &event["data"]["match_id"]),
            (&json!("cancelled"), &json!(pair.found.match_id))
        );
    }
    // What match, and rides, say later of the same offer reaches nobody.
    for reason in [RejectReason::Cancelled, RejectReason::Expired, RejectReason::Superseded] {
        cluster.publish(&by_match(&pair, reason, &cluster)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(pair.d.rejections(&cluster, pair.driver).await, [""; 0]);
    assert_eq!(pair.p.rejections(&cluster, pair.passenger).await, [""; 0]);
    assert_eq!(pair.p.ack("finder.update", no_search()).await, json!({"request_id": null}));
    pod.stop().await;
}

async fn another_trip_closes_the_offer_of_the_old_search(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 32, 60).await;
    let next = pair.p.ack("finder.update", trip(HERE)).await;
    assert_ne!(next, json!({"request_id": pair.found.request_id}));
    assert_eq!(pair.d.refused("match.accept", match_id(&pair.found)).await, "offer_closed -");
    assert_eq!(pair.d.event_of("match.rejected").await["data"]["reason"], "cancelled");
    assert_eq!(pair.p.ack("finder.update", trip(HERE)).await, next, "the new one goes on");
    pod.stop().await;
}

async fn an_offer_of_an_ended_search_is_closed_when_it_arrives(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 33, 60).await;
    let old = pair.found.request_id;
    let next = RequestId(id_of(&pair.p.ack("finder.update", trip(HERE)).await, "request_id"));
    pair.d.event_of("match.rejected").await;
    // One for the ended search, one for the open search but another passenger, one for the open search.
    let mut open = true;
    for (request, passenger) in [(next, pair.passenger), (old, pair.passenger), (next, pair.driver)] {
        let found = cluster.found(pair.driver, passenger, request, 60);
        cluster.publish(&Event::MatchFound(found.clone())).await;
        assert_eq!(pair.d.event_of("match.found").await["data"]["match_id"], json!(found.match_id));
        if open {
            assert_eq!(pair.d.ack("match.reject", match_id(&found)).await, match_id(&found));
        } else {
            assert_eq!(pair.d.refused("match.accept", match_id(&found)).await, "offer_closed -");
        }
        let rejected = pair.d.event_of("match.rejected").await;
        assert_eq!(rejected["data"]["reason"], if open { "declined" } else { "cancelled" });
        assert_eq!(rejected["data"]["match_id"], json!(found.match_id));
        open = false;
    }
    pod.stop().await;
}

async fn an_end_wins_over_an_acceptance_if_rides_agrees(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 34, 60).await;
    pair.d.ack("match.accept", match_id(&pair.found)).await;
    let asked = rides(&cluster, vec![RideReply::Ok(json!({}))]).await;
    let request = json!({"request_id": pair.found.request_id});
    assert_eq!(pair.p.ack("finder.update", no_search()).await, request);
    let asked = asked.await.unwrap();
    assert_eq!((asked[0].request_id, asked[0].user_id), (pair.found.request_id, pair.passenger));
    for client in [&mut pair.d, &mut pair.p] {
        assert_eq!(client.event_of("match.rejected").await["data"]["reason"], "cancelled");
    }
    // rides supersedes the acceptance, which tells nobody anything new.
    cluster.publish(&by_match(&pair, RejectReason::Superseded, &cluster)).await;
    assert_eq!(pair.d.refused("match.accept", match_id(&pair.found)).await, "offer_closed -");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(pair.d.rejections(&cluster, pair.driver).await, [""; 0]);
    pod.stop().await;
}

async fn a_search_that_has_become_a_ride_does_not_end(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 35, 60).await;
    pair.d.ack("match.accept", match_id(&pair.found)).await;
    let asked = rides(&cluster, vec![refusal(SEARCH_FULFILLED), refusal(SEARCH_FULFILLED)]).await;
    assert_eq!(pair.p.refused("finder.update", no_search()).await, "ride_live -");
    assert_eq!(pair.p.refused("finder.update", trip(HERE)).await, "ride_live -");
    asked.await.unwrap();
    // The same once the ride is known here, and then rides is not asked.
    let ride: RideId = cluster.world.id();
    cluster.publish(&cluster.ride(ride, &pair.found, 1, RideStatus::Pickup)).await;
    pair.p.event_of("ride.pickup").await;
    assert_eq!(pair.p.refused("finder.update", no_search()).await, "ride_live -");
    cluster.publish(&cluster.ride(ride, &pair.found, 2, RideStatus::Cancelled)).await;
    pair.p.event_of("ride.cancelled").await;
    assert_eq!(pair.p.ack("finder.update", no_search()).await, json!({"request_id": null}));
    pod.stop().await;
}

async fn without_an_answer_of_rides_an_accepted_search_stays(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 36, 60).await;
    pair.d.ack("match.accept", match_id(&pair.found)).await;
    assert_eq!(pair.p.refused("finder.update", no_search()).await, "unavailable -", "nobody answers");
    // A process of the version before does not know the command.
    let asked = rides(&cluster, vec![refusal("invalid_field"), RideReply::Ok(json!({}))]).await;
    assert_eq!(pair.p.refused("finder.update", no_search()).await, "unavailable -");
    assert_eq!(pair.d.ack("match.accept", match_id(&pair.found)).await, match_id(&pair.found), "still accepted");
    assert_eq!(pair.p.ack("finder.update", trip(THERE)).await, json!({"request_id": pair.found.request_id}));
    pair.p.ack("finder.update", no_search()).await;
    assert_eq!(asked.await.unwrap().len(), 2);
    pod.stop().await;
}

/// rides has decided, and its answer to the acceptance arrives before its answer to the end.
async fn superseded_waits_for_an_end_on_its_way(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 38, 60).await;
    pair.d.ack("match.accept", match_id(&pair.found)).await;
    let mut requests = cluster.bus.subscribe(RIDE_COMMANDS, Some("rides")).await.unwrap();
    let superseded = by_match(&pair, RejectReason::Superseded, &cluster);
    let answer = async {
        let request = requests.next().await.unwrap();
        cluster.publish(&superseded).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let reply = serde_json::to_vec(&RideReply::Ok(json!({}))).unwrap();
        cluster.bus.publish_core(&request.reply.unwrap(), reply.into()).await.unwrap();
    };
    tokio::join!(pair.p.ack("finder.update", no_search()), answer);
    assert_eq!(pair.d.event_of("match.rejected").await["data"]["reason"], "cancelled");
    assert_eq!(pair.p.event_of("match.rejected").await["data"]["reason"], "cancelled");
    pod.stop().await;
}

async fn an_offer_whose_end_arrives_first_is_closed(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 37, 60).await;
    pair.found = cluster.found(pair.driver, pair.passenger, pair.found.request_id, 60);
    cluster.publish(&by_match(&pair, RejectReason::Expired, &cluster)).await;
    pair.d.event_of("match.rejected").await;
    cluster.publish(&Event::MatchFound(pair.found.clone())).await;
    pair.d.event_of("match.found").await;
    assert_eq!(pair.d.refused("match.accept", match_id(&pair.found)).await, "offer_closed -");
    // The end of the search closes the first offer alone.
    pair.p.ack("finder.update", no_search()).await;
    let first = pair.d.event_of("match.rejected").await;
    assert_ne!(first["data"]["match_id"], json!(pair.found.match_id));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(pair.d.rejections(&cluster, pair.driver).await, [""; 0]);
    pod.stop().await;
}

async fn of_an_end_and_an_acceptance_at_once_one_wins(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut won = [0; 2];
    for n in 0..30 {
        let mut pair = Pair::offered(&cluster, &pod, 100 + n, 60).await;
        let offer = match_id(&pair.found);
        // Nobody answers for rides: an end after the acceptance is refused.
        let (end, accept) =
            tokio::join!(pair.p.request("finder.update", no_search()), pair.d.request("match.accept", offer));
        match (end["type"].as_str().unwrap(), accept["type"].as_str().unwrap()) {
            ("ack", "error") => won[0] += 1,
            ("error", "ack") => won[1] += 1,
            _ => panic!("{end} {accept}"),
        }
    }
    assert_eq!(won.iter().sum::<u32>(), 30, "{won:?}");
    pod.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_search_waits_for_the_answer_to_an_acceptance() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.idle_pod("one", users::Config { request_ttl_s: 5, ..users::Config::default() }).await;
    pod.run();
    let mut open = Pair::offered(&cluster, &pod, 41, 600).await;
    let mut accepted = Pair::offered(&cluster, &pod, 42, 600).await;
    let mut stuck = Pair::offered(&cluster, &pod, 43, 600).await;
    for pair in [&mut accepted, &mut stuck] {
        pair.d.ack("match.accept", match_id(&pair.found)).await;
    }
    let asked = rides(&cluster, vec![RideReply::Ok(json!({}))]).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    // Without an acceptance it ends in time, and its offer with it.
    assert_eq!(open.d.event_of("match.rejected").await["data"]["reason"], "cancelled");
    assert_eq!(open.d.refused("match.accept", match_id(&open.found)).await, "offer_closed -");
    // Superseded: it ends with the next look.
    cluster.publish(&cluster.rejected(&accepted.found, RejectReason::Superseded)).await;
    assert_eq!(accepted.d.event_of("match.rejected").await["data"]["reason"], "superseded");
    let end = async |client: &mut Client| {
        while client.event_of("user.finder").await["data"]["active"] == true {}
        cluster.world.now()
    };
    let began = cluster.world.now();
    assert!(end(&mut accepted.p).await - began < chrono::Duration::seconds(3));
    // Neither a ride nor superseded: rides is asked a minute after the search's time.
    let ended = end(&mut stuck.p).await - began;
    assert!((chrono::Duration::seconds(55)..chrono::Duration::seconds(63)).contains(&ended), "{ended}");
    assert_eq!(asked.await.unwrap()[0].request_id, stuck.found.request_id);
    // The driver's socket was closed meanwhile: nobody answered its pings.
    let mut d = pod.connect(stuck.driver, Some(0)).await;
    assert_eq!(d.event_of("match.rejected").await["data"]["reason"], "cancelled");
    pod.stop().await;
}
