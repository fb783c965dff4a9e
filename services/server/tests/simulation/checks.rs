//! What must be true of what clients and streams saw, whatever went wrong. It reads JSON and shares no code with the
//! handlers; each violation is a sentence with the ids.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_lc_rs::digest;
use chrono::{DateTime, Utc};
use platform::Store;
use rides::ledger::rows::balance;
use rides::payment::rows::payments_of;
use rides::{Tables, ledger, payment};
use serde_json::Value;
use streams::bus::ReplayStart;
use streams::topology::{Retention, Topology};
use streams::{Bus, RideId, UserId};

use crate::inbox;
use crate::scene::{Acked, Published, Scene};

fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    body[field].as_str().unwrap_or_default()
}

fn time(body: &Value, field: &str) -> DateTime<Utc> {
    text(body, field).parse().unwrap_or(DateTime::UNIX_EPOCH)
}

fn cents(money: &Value) -> i64 {
    money["amount"].as_i64().unwrap_or(i64::MIN)
}

/// What is not at rest: who is busy, what waits where, what is broken.
pub(crate) async fn unrest(scene: &Scene) -> Vec<String> {
    let mut found: Vec<String> = scene.processes.iter().flat_map(|process| process.faulty()).collect();
    if !found.is_empty() {
        return found;
    }
    let (bus, topology) = (Bus::Memory(scene.bus.clone()), Topology::rideshare().with_sweeper());
    for consumer in &topology.consumers {
        let info = bus.consumer_info(&consumer.stream, &consumer.durable).await.unwrap();
        if info.pending + info.ack_pending > 0 {
            found.push(format!("{}: {} wait, {} are out", consumer.durable, info.pending, info.ack_pending));
        }
    }
    for stream in topology.streams.iter().filter(|stream| stream.retention != Retention::Limits) {
        let info = bus.stream_info(&stream.name).await.unwrap();
        if info.messages > 0 {
            found.push(format!("{} keeps {} messages", stream.name, info.messages));
        }
    }
    let stores = &scene.stores;
    let waiting = [
        ("users", stores.users.waiting().await.unwrap()),
        ("matching", stores.matching.waiting().await.unwrap()),
        ("rides", stores.rides.waiting().await.unwrap()),
        ("location", stores.location.waiting().await.unwrap()),
    ];
    let waiting = waiting.into_iter().filter(|(_, rows)| *rows > 0);
    found.extend(waiting.map(|(service, rows)| format!("{rows} rows wait in the outbox of {service}")));
    found.extend(live_rides(&scene.log().published).into_iter().map(|ride| format!("ride {ride} has not ended")));
    found
}

fn live_rides(published: &[Published]) -> BTreeSet<String> {
    let of = |subjects: &'static [&str]| {
        let events = published.iter().filter(move |e| subjects.contains(&e.subject.as_str()));
        events.map(|e| text(&e.body, "ride_id").to_owned())
    };
    let over: BTreeSet<String> = of(&["ride.completed", "ride.cancelled"]).collect();
    of(&["ride.pickup"]).filter(|ride| !over.contains(ride)).collect()
}

/// All that is wrong once everything has come to rest.
pub(crate) async fn all(scene: &Scene) -> Vec<String> {
    let trail = trail(scene).await;
    let mut wrong = Vec::new();
    let (published, acked) = {
        let log = scene.log();
        (log.published.clone(), log.acked.clone())
    };
    let lives = lifecycles(&trail, &mut wrong);
    one_ride_at_a_time(&lives, &mut wrong);
    offers(&published, &lives, &mut wrong);
    money(&lives, &published, &scene.stores.rides, &mut wrong).await;
    let seen = Seen::of(&published, &lives);
    for done in &acked {
        effect(done, &seen, &mut wrong);
    }
    mailboxes(scene, &published, &lives, &mut wrong);
    inbox::all(scene, &published, &mut wrong).await;
    wrong
}

/// RIDE_STREAM as it is stored.
async fn trail(scene: &Scene) -> Vec<Value> {
    let bus = Bus::Memory(scene.bus.clone());
    let mut replay = bus.replay("RIDE_STREAM", None, ReplayStart::Sequence(1)).await.unwrap();
    let mut events = Vec::new();
    while let Ok(Some(stored)) = replay.next(Duration::ZERO).await {
        let mut event: Value = serde_json::from_slice(&stored.payload).unwrap();
        event["subject"] = stored.subject.into();
        events.push(event);
    }
    events
}

/// SHA-256 over the RFC 8785 form of the body without `hash`.
fn hash_of(event: &Value) -> String {
    let mut body = event.clone();
    body.as_object_mut().unwrap().retain(|name, _| name != "hash" && name != "subject");
    let canonical = serde_jcs::to_vec(&body).unwrap();
    digest::digest(&digest::SHA256, &canonical).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The events of each ride, in the order in which the stream has them.
type Lives = BTreeMap<String, Vec<Value>>;

fn lifecycles(trail: &[Value], wrong: &mut Vec<String>) -> Lives {
    let mut lives = Lives::new();
    for event in trail {
        lives.entry(text(event, "ride_id").to_owned()).or_default().push(event.clone());
    }
    let mut of_match: BTreeMap<&str, &str> = BTreeMap::new();
    for (ride, events) in &lives {
        let statuses: Vec<&str> = events.iter().map(|e| text(e, "status")).collect();
        let legal: [&[&str]; 3] = [
            &["pickup", "started", "arrived", "completed"],
            &["pickup", "cancelled"],
            &["pickup", "started", "cancelled"],
        ];
        if !legal.contains(&&statuses[..]) {
            wrong.push(format!("ride {ride} went {statuses:?}"));
        }
        let mut hash = "0".repeat(64);
        for (n, event) in events.iter().enumerate() {
            if event["version"] != n as u64 + 1 {
                wrong.push(format!("ride {ride}: version {} stands at place {}", event["version"], n + 1));
            }
            if text(event, "subject") != format!("ride.{}", text(event, "status")) {
                wrong.push(format!("ride {ride}: {} says {}", text(event, "subject"), text(event, "status")));
            }
            if text(event, "previous_hash") != hash {
                wrong.push(format!("ride {ride}: version {} does not follow the one before it", n + 1));
            }
            hash = text(event, "hash").to_owned();
            if hash_of(event) != hash {
                wrong.push(format!("ride {ride}: version {} has not the hash that it names", n + 1));
            }
            for same in ["match_id", "driver_id", "passenger_id"] {
                if event[same] != events[0][same] {
                    wrong.push(format!("ride {ride}: {same} changes"));
                }
            }
        }
        if let Some(other) = of_match.insert(text(&events[0], "match_id"), ride) {
            wrong.push(format!("match {} became two rides: {other}, {ride}", text(&events[0], "match_id")));
        }
    }
    lives
}

/// From when until when somebody was taken by what.
type Spans<'a> = BTreeMap<&'a str, Vec<(DateTime<Utc>, DateTime<Utc>, String)>>;

fn apart(what: &str, spans: Spans<'_>, wrong: &mut Vec<String>) {
    for (person, mut spans) in spans {
        spans.sort();
        for pair in spans.windows(2) {
            if pair[1].0 < pair[0].1 {
                let [one, two] = [&pair[0].2, &pair[1].2];
                wrong.push(format!("{person} is in two {what} at {}: {one} and {two}", pair[1].0));
            }
        }
    }
}

fn end_of(events: &[Value]) -> DateTime<Utc> {
    let last = events.last().filter(|e| ["completed", "cancelled"].contains(&text(e, "status")));
    last.map_or(DateTime::<Utc>::MAX_UTC, |event| time(event, "occurred_at"))
}

fn one_ride_at_a_time(lives: &Lives, wrong: &mut Vec<String>) {
    let mut spans = Spans::new();
    for (ride, events) in lives {
        for role in ["driver_id", "passenger_id"] {
            let span = (time(&events[0], "occurred_at"), end_of(events), ride.clone());
            spans.entry(text(&events[0], role)).or_default().push(span);
        }
    }
    apart("rides", spans, wrong);
}

/// Every offer ends, has one winner, and nobody is in two offers, or in an offer and its ride and another, at a time.
fn offers(published: &[Published], lives: &Lives, wrong: &mut Vec<String>) {
    let of = |subject: &'static str| published.iter().filter(move |e| e.subject == subject).map(|e| &e.body);
    let by_match = |subject| {
        let mut all: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for body in of(subject) {
            all.entry(text(body, "match_id")).or_default().push(body);
        }
        all
    };
    let (found, accepted, rejected) = (by_match("match.found"), by_match("match.accepted"), by_match("match.rejected"));
    let ridden: BTreeMap<&str, &Vec<Value>> = lives.values().map(|e| (text(&e[0], "match_id"), e)).collect();
    let mut spans = Spans::new();
    for (id, offers) in &found {
        let [offer] = offers[..] else {
            wrong.push(format!("match {id} was found {} times", offers.len()));
            continue;
        };
        let rejections = rejected.get(id).into_iter().flatten();
        let ended = rejections.map(|e| time(e, "rejected_at")).min();
        let Some(end) = ended.or(ridden.get(id).map(|events| end_of(events))) else {
            wrong.push(format!("match {id} never ended"));
            continue;
        };
        for role in ["driver_id", "passenger_id"] {
            let span = (time(offer, "found_at"), end, format!("match {id}"));
            spans.entry(text(offer, role)).or_default().push(span);
        }
    }
    apart("offers", spans, wrong);
    let mut served: BTreeMap<&str, &str> = BTreeMap::new();
    for (id, events) in &ridden {
        let ride = text(&events[0], "ride_id");
        if let Some(offer) = found.get(id)
            && let Some(other) = served.insert(text(offer[0], "request_id"), ride)
        {
            wrong.push(format!("request {} became two rides: {other}, {ride}", text(offer[0], "request_id")));
        }
    }
    for (id, events) in &accepted {
        let reasons: Vec<&str> = rejected.get(id).into_iter().flatten().map(|e| text(e, "reason")).collect();
        if events.len() > 1 {
            wrong.push(format!("match {id} was accepted {} times", events.len()));
        }
        if reasons.contains(&"declined") {
            wrong.push(format!("match {id} was accepted and declined"));
        }
        match found.get(id) {
            Some(offer) if ["driver_id", "passenger_id", "request_id"].iter().all(|f| offer[0][f] == events[0][f]) => {}
            _ => wrong.push(format!("match {id} was accepted, but not offered so")),
        }
        let superseded = reasons.iter().filter(|r| **r == "superseded").count();
        if ridden.contains_key(id) == (superseded > 0) {
            wrong.push(format!(
                "match {id} was accepted and became {}",
                if superseded > 0 { "a ride and superseded" } else { "nothing" }
            ));
        }
    }
    for id in ridden.keys().filter(|id| !accepted.contains_key(*id)) {
        wrong.push(format!("match {id} became a ride and was not accepted"));
    }
    for (id, events) in &rejected {
        for reason in ["declined", "expired", "cancelled", "superseded"] {
            if events.iter().filter(|e| text(e, "reason") == reason).count() > 1 {
                wrong.push(format!("match {id} was {reason} twice"));
            }
        }
        if !found.contains_key(id) {
            wrong.push(format!("match {id} was rejected, but never found"));
        }
    }
}

async fn money(lives: &Lives, published: &[Published], rides: &Store<Tables>, wrong: &mut Vec<String>) {
    let mut captures: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for capture in published.iter().filter(|e| e.subject == "payment.capture") {
        captures.entry(text(&capture.body, "ride_id")).or_default().push(&capture.body);
    }
    let (mut turnover, mut people) = (0, BTreeSet::new());
    for (ride, events) in lives {
        let Some(last) = events.last() else { continue };
        people.insert((text(last, "driver_id"), text(last, "passenger_id")));
        let due = match text(last, "status") {
            "completed" => {
                let total = cents(&last["fare"]["total"]);
                let lines = last["fare"]["lines"].as_array().into_iter().flatten();
                if lines.map(|line| cents(&line["amount"])).sum::<i64>() != total {
                    wrong.push(format!("ride {ride}: the lines of its fare are not its total"));
                }
                if cents(&last["platform_fee"]) + cents(&last["driver_payout"]) != total {
                    wrong.push(format!("ride {ride}: fare, payout and fee do not agree"));
                }
                total
            }
            "cancelled" => cents(&last["fee"]),
            _ => 0,
        };
        turnover += due;
        let captured = captures.remove(ride.as_str()).unwrap_or_default();
        let amounts: Vec<i64> = captured.iter().map(|capture| cents(&capture["amount"])).collect();
        let wanted = if due > 0 { vec![due] } else { Vec::new() };
        if amounts != wanted {
            wrong.push(format!("ride {ride}: captured {amounts:?}, due {wanted:?}"));
        }
        let id: RideId = ride.parse().unwrap();
        let paid = payments_of(&mut rides.begin().await.unwrap(), &[id]).await.unwrap().pop();
        let paid = paid.map(|p| (p.amount.amount, p.status == payment::PaymentStatus::Captured));
        if paid != (due > 0).then_some((due, true)) {
            wrong.push(format!("ride {ride}: due {due}, its payment is {paid:?}"));
        }
    }
    for ride in captures.keys() {
        wrong.push(format!("ride {ride} was billed and never was"));
    }
    let mut sum = balance(&mut rides.begin().await.unwrap(), ledger::REVENUE).await.unwrap();
    let drivers: BTreeSet<&str> = people.iter().map(|(driver, _)| *driver).collect();
    for driver in drivers {
        sum += balance(&mut rides.begin().await.unwrap(), &format!("driver:{driver}")).await.unwrap();
    }
    let passengers: BTreeSet<&str> = people.iter().map(|(_, passenger)| *passenger).collect();
    for passenger in passengers {
        let owed = balance(&mut rides.begin().await.unwrap(), &format!("passenger:{passenger}")).await.unwrap();
        if owed != 0 {
            wrong.push(format!("{passenger} owes {owed} although all is captured"));
        }
    }
    let cash = balance(&mut rides.begin().await.unwrap(), "cash:ledger").await.unwrap();
    if cash != turnover || sum != -cash {
        wrong.push(format!("the rides come to {turnover}, the cash to {cash}, what is earned to {}", -sum));
    }
}

/// What the streams saw, by what a command leads to.
struct Seen<'a> {
    beacons: BTreeSet<&'a str>,
    searches: BTreeSet<(&'a str, bool)>,
    matches: BTreeSet<(&'a str, &'a str)>,
    points: BTreeSet<(&'a str, DateTime<Utc>)>,
    rides: BTreeSet<(&'a str, &'a str)>,
}

impl<'a> Seen<'a> {
    fn of(published: &'a [Published], lives: &'a Lives) -> Self {
        let of = |subject: &'static str| published.iter().filter(move |e| e.subject == subject).map(|e| &e.body);
        let answers = of("match.accepted").map(|e| (text(e, "match_id"), "accepted"));
        let answers = answers.chain(of("match.rejected").map(|e| (text(e, "match_id"), text(e, "reason"))));
        Self {
            beacons: of("user.beacon").map(|e| text(e, "user_id")).collect(),
            searches: of("user.finder").map(|e| (text(e, "request_id"), e["active"] == true)).collect(),
            matches: answers.collect(),
            points: of("location.update").map(|e| (text(e, "user_id"), time(e, "recorded_at"))).collect(),
            rides: lives.values().flatten().map(|e| (text(e, "ride_id"), text(e, "status"))).collect(),
        }
    }
}

/// A command that was acknowledged has had its effect.
fn effect(done: &Acked, seen: &Seen<'_>, wrong: &mut Vec<String>) {
    let (ride, of_match) = (text(&done.data, "ride_id"), text(&done.data, "match_id"));
    let user = done.user.to_string();
    let is_seen = match done.kind {
        "finder.update" => match done.answer["request_id"].as_str() {
            Some(request) => seen.searches.contains(&(request, done.data["active"] == true)),
            None => done.data["active"] == false,
        },
        "beacon.update" => seen.beacons.contains(user.as_str()),
        "match.accept" => seen.matches.contains(&(of_match, "accepted")),
        "match.reject" => seen.matches.contains(&(of_match, "declined")),
        "location.update" => {
            let one = std::slice::from_ref(&done.data);
            let points = done.data["points"].as_array().map_or(one, Vec::as_slice).iter();
            points.map(|p| (user.as_str(), time(p, "recorded_at"))).all(|point| seen.points.contains(&point))
        }
        "ride.start" => seen.rides.contains(&(ride, "started")),
        "ride.arrive" => seen.rides.contains(&(ride, "arrived")),
        "ride.cancel" => seen.rides.contains(&(ride, "cancelled")),
        _ => true,
    };
    if !is_seen {
        wrong.push(format!("{user}: {} {} was acknowledged and has no effect", done.kind, done.data));
    }
}

/// Every mailbox holds what concerns its user, all of it, once, and nothing else.
fn mailboxes(scene: &Scene, published: &[Published], lives: &Lives, wrong: &mut Vec<String>) {
    let passengers: BTreeMap<&str, &str> =
        lives.iter().map(|(ride, events)| (ride.as_str(), text(&events[0], "passenger_id"))).collect();
    let mut due: BTreeMap<String, BTreeMap<&str, &Value>> = BTreeMap::new();
    for event in published {
        let body = &event.body;
        let users = match event.subject.as_str() {
            "user.beacon" | "user.finder" => vec![text(body, "user_id")],
            "location.aggregate" => passengers.get(text(body, "ride_id")).copied().into_iter().collect(),
            subject if subject.starts_with("match.") || subject.starts_with("ride.") => {
                vec![text(body, "driver_id"), text(body, "passenger_id")]
            }
            _ => Vec::new(),
        };
        for user in users {
            due.entry(user.to_owned()).or_default().insert(&event.id, body);
        }
    }
    let log = scene.log();
    let none = BTreeMap::new();
    let users: BTreeSet<UserId> = log.got.keys().copied().chain(due.keys().map(|u| u.parse().unwrap())).collect();
    for user in users {
        let due = due.get(&user.to_string()).unwrap_or(&none);
        let mut got = BTreeSet::new();
        for event in log.got.get(&user).into_iter().flatten() {
            if !got.insert(event.event_id.as_str()) {
                wrong.push(format!("{user} got {} twice, the second time as {}", event.event_id, event.seq));
            }
            let mut body = event.body.clone();
            if event.subject == "ride.pickup" && text(&body, "passenger_id") == user.to_string() {
                body.as_object_mut().map(|fields| fields.remove("pin"));
            }
            match due.get(event.event_id.as_str()) {
                None => wrong.push(format!("{user} got {}, which is not theirs", event.event_id)),
                Some(published) if **published != body => {
                    wrong.push(format!("{user} got {} with another body: {body}", event.event_id));
                }
                Some(_) => {}
            }
        }
        for id in due.keys().filter(|id| !got.contains(*id)) {
            wrong.push(format!("{user} never got {id}"));
        }
    }
}
