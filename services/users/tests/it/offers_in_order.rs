//! One live offer at a time in everybody's eyes: the end of the old one comes before the new one, whichever event arrives first.

use std::time::Duration;

use serde_json::{Value, json};
use streams::event::{MatchRejected, RejectReason};
use streams::{Event, Position, RequestId, Service};
use testing::{Backend, on_both_stores};

use crate::client::{Client, id_of, match_id};
use crate::commands::Pair;
use crate::pods::{Cluster, HERE, THERE};

on_both_stores!(
    the_end_of_an_offer_comes_before_the_next_one,
    an_offer_that_match_has_let_expire_ends_before_the_next_one,
    a_pin_that_moves_a_little_takes_no_offer_away,
);

/// A trip whose pickup is so many metres north of HERE.
fn trip_from(metres: f64) -> Value {
    let pickup = Position { lat: HERE.lat + metres / 111_195.0, lng: HERE.lng };
    json!({"active": true, "pickup": pickup, "dropoff": THERE, "vehicle_type": "car"})
}

impl Client {
    /// What the client has been told of offers, in order, up to the offer of this match: `+n` for a match.found, `-n` for a
    /// match.rejected, where n counts the matches.
    async fn offers_until(&mut self, matches: &[Value]) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            let event = self.event().await;
            let sign = match event["type"].as_str().unwrap() {
                "match.found" => '+',
                "match.rejected" => '-',
                _ => continue,
            };
            let n = matches.iter().position(|id| *id == event["data"]["match_id"]).unwrap();
            told.push(format!("{sign}{n}"));
            if sign == '+' && n + 1 == matches.len() {
                return told;
            }
        }
    }
}

async fn the_end_of_an_offer_comes_before_the_next_one(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 361, 60).await;
    let mut matches = vec![json!(pair.found.match_id)];
    for n in 1..=8 {
        if n % 2 == 0 {
            // The driver, who has received it, declines, and match is as fast.
            while pod.state(pair.driver).await["offer"]["match_id"] != *matches.last().unwrap() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            pair.d.ack("match.reject", json!({"match_id": matches.last()})).await;
        }
        let next = pair.p.ack("finder.update", trip_from(100.0 * f64::from(n))).await;
        let found = cluster.found(pair.driver, pair.passenger, RequestId(id_of(&next, "request_id")), 60);
        cluster.publish(&Event::MatchFound(found.clone())).await;
        matches.push(json!(found.match_id));
    }
    let expected: Vec<String> = (0..8).flat_map(|n| [format!("-{n}"), format!("+{}", n + 1)]).collect();
    assert_eq!(pair.d.offers_until(&matches).await, expected);
    assert_eq!(pair.p.offers_until(&matches).await, expected);
    // The same in the mailbox, and the events that were late are not there a second time.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for user in [pair.driver, pair.passenger] {
        let again = pod.connect(user, Some(0)).await.offers_until(&matches).await;
        assert_eq!(again, [vec!["+0".to_owned()], expected.clone()].concat());
    }
    pod.stop().await;
}

async fn an_offer_that_match_has_let_expire_ends_before_the_next_one(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let mut pair = Pair::offered(&cluster, &pod, 362, 1).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let next = cluster.found(pair.driver, pair.passenger, pair.found.request_id, 60);
    cluster.publish(&Event::MatchFound(next.clone())).await;
    for client in [&mut pair.d, &mut pair.p] {
        let (end, found) = (client.event_of("match.rejected").await, client.event().await);
        assert_eq!(
            (&end["data"]["reason"], &end["data"]["match_id"]),
            (&json!("expired"), &json!(pair.found.match_id))
        );
        assert_eq!((&found["type"], &found["data"]["match_id"]), (&json!("match.found"), &json!(next.match_id)));
    }
    // What match says of it comes late, and tells nobody.
    let Event::MatchRejected(late) = cluster.rejected(&pair.found, RejectReason::Expired) else { unreachable!() };
    let late = MatchRejected { rejected_at: MatchRejected::time(Service::Match, late.rejected_at), ..late };
    cluster.publish(&Event::MatchRejected(late)).await;
    assert_eq!(pair.d.refused("match.accept", match_id(&pair.found)).await, "offer_closed -");
    pair.d.ack("match.accept", match_id(&next)).await;
    let event = pair.d.event().await;
    assert_eq!(event["type"], "match.accepted", "{event}");
    pod.stop().await;
}

async fn a_pin_that_moves_a_little_takes_no_offer_away(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125553700").await;
    let mut client = pod.connect(user, None).await;
    let first = client.ack("finder.update", trip_from(0.0)).await;
    for metres in [10.0, 24.0, -24.0, 0.0] {
        assert_eq!(client.ack("finder.update", trip_from(metres)).await, first, "{metres} m");
    }
    let second = client.ack("finder.update", trip_from(26.0)).await;
    assert_ne!(second, first);
    // Measured from the new place.
    assert_eq!(client.ack("finder.update", trip_from(40.0)).await, second);
    let mut other = trip_from(26.0);
    other["vehicle_type"] = json!("van");
    assert_ne!(client.ack("finder.update", other).await, second);
    pod.stop().await;
}
