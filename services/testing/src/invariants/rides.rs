//! Lifecycles, offers and fares.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use chrono::{DateTime, Duration, Utc};
use serde_json::Value;

use super::history::{Event, History, text, time};

/// SHA-256 over the RFC 8785 form of the body without `hash`.
pub fn hash(body: &Value) -> String {
    let mut body = body.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("hash");
    }
    let canonical = serde_jcs::to_vec(&body).expect("JSON has a canonical form");
    digest::digest(&digest::SHA256, &canonical).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cents(money: &Value) -> i64 {
    money["amount"].as_i64().unwrap_or(0)
}

/// What is wrong with what a cancelled ride costs.
fn cancellation_problems(events: &[Event<'_>]) -> Vec<String> {
    let mut wrong = Vec::new();
    let Some(Event { body, .. }) = events.last() else { return wrong };
    let (fee, by, code) = (cents(&body["fee"]), text(body, "by"), text(body, "reason_code"));
    let lines = body["fare"]["lines"].as_array().map_or(&[][..], Vec::as_slice);
    let sum: i64 = lines.iter().map(|line| cents(&line["amount"])).sum();
    let has = |name: &str| lines.iter().any(|line| text(line, "name") == name);
    let parts = cents(&body["platform_fee"]) + cents(&body["driver_payout"]);
    if fee != sum || fee != parts {
        wrong.push(format!("a fee of {fee}, its lines {sum}, fee and payout {parts}"));
    }
    let waited = events.iter().any(|event| event.subject == "ride.waiting");
    let started = events.iter().any(|event| event.subject == "ride.started");
    if started != body["distance_m"].is_number() || started != body["duration_s"].is_number() {
        wrong.push("what was driven is known after the start, and only then".to_owned());
    }
    match (started, by) {
        (true, "passenger") if fee <= 0 || !has("base") => wrong.push(format!("{fee} for what was driven")),
        (true, "driver") if has("minimum") => wrong.push("its driver ended it, and is paid the minimum".to_owned()),
        (false, "driver") if fee > 0 && (code != "no_show" || !has("no_show") || !waited) => {
            wrong.push(format!("its driver did not come, and is paid {fee}"));
        }
        (false, "passenger") if fee > 0 && !has("cancellation") => wrong.push(format!("a fee of {fee}, and not why")),
        _ => {}
    }
    let goes_on = by == "driver" && !started && code != "no_show";
    if goes_on != (body["search_continues"] == true) {
        wrong.push(format!("cancelled by the {by}, and its search goes on: {}", body["search_continues"]));
    }
    wrong
}

/// What the passenger owes by the last event of a ride, in minor units: the fare, the cancellation fee, or nothing.
pub fn fee_or_fare(last: &Value) -> i64 {
    match text(last, "status") {
        "completed" => cents(&last["fare"]["total"]),
        "cancelled" => cents(&last["fee"]),
        _ => 0,
    }
}

/// From when until when somebody was in what.
type Spans<'a> = BTreeMap<&'a str, Vec<(DateTime<Utc>, DateTime<Utc>, &'a str)>>;

fn overlaps(what: &str, spans: Spans<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (person, mut spans) in spans {
        spans.sort();
        for pair in spans.windows(2) {
            if pair[1].0 < pair[0].1 {
                wrong.push(format!("{person} is in two {what} at {}: {} and {}", pair[1].0, pair[0].2, pair[1].2));
            }
        }
    }
    wrong
}

fn end_of(events: &[Event<'_>]) -> DateTime<Utc> {
    let last = events.last().filter(|event| ["completed", "cancelled"].contains(&text(event.body, "status")));
    last.map_or(DateTime::<Utc>::MAX_UTC, |event| time(event.body, "occurred_at"))
}

impl History<'_> {
    /// Every ride went through a legal order to its end, its versions have no gap, its hashes chain, its parties stay the same,
    /// and no match became two rides.
    pub fn lifecycles(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut of_match: BTreeMap<&str, &str> = BTreeMap::new();
        for (ride, events) in &self.rides {
            let mut say = |what: String| wrong.push(format!("ride {ride}: {what}"));
            let order: Vec<&str> = events.iter().map(|event| text(event.body, "status")).collect();
            let is_legal = matches!(
                order[..],
                ["pickup", "started", "arrived", "completed"]
                    | ["pickup", "waiting", "started", "arrived", "completed"]
                    | ["pickup", "waiting", "cancelled"]
                    | ["pickup", "waiting", "started", "cancelled"]
                    | ["pickup", "cancelled"]
                    | ["pickup", "started", "cancelled"]
            );
            if !is_legal {
                say(format!("its events are {order:?}"));
            }
            let mut previous = "0".repeat(64);
            for (n, Event { subject, body, .. }) in (1..).zip(events) {
                if body["version"] != n {
                    say(format!("version {} stands where {n} belongs", body["version"]));
                }
                if *subject != format!("ride.{}", text(body, "status")) {
                    say(format!("{subject} has the status {}", text(body, "status")));
                }
                if text(body, "previous_hash") != previous {
                    say(format!("version {n} does not hold the hash of the one before"));
                }
                previous = text(body, "hash").to_owned();
                if hash(body) != previous {
                    say(format!("version {n} has not the hash that it names"));
                }
                for field in ["ride_id", "match_id", "driver_id", "passenger_id"] {
                    if body[field] != events[0].body[field] {
                        say(format!("version {n} has another {field}"));
                    }
                }
            }
            let match_id = events.first().map_or("", |event| text(event.body, "match_id"));
            if let Some(other) = of_match.insert(match_id, ride) {
                wrong.push(format!("match {match_id} became two rides: {other}, {ride}"));
            }
        }
        wrong
    }

    /// From pickup to the end neither party is in another ride.
    pub fn one_ride_at_a_time(&self) -> Vec<String> {
        let mut spans = Spans::new();
        for (ride, events) in &self.rides {
            let Some(first) = events.first() else { continue };
            for role in ["driver_id", "passenger_id"] {
                let span = (time(first.body, "occurred_at"), end_of(events), *ride);
                spans.entry(text(first.body, role)).or_default().push(span);
            }
        }
        overlaps("rides", spans)
    }

    /// Every offer ends; nobody is in two offers, or in an offer and another one's ride, at a time.
    pub fn one_offer_at_a_time(&self) -> Vec<String> {
        let (mut wrong, mut spans) = (Vec::new(), Spans::new());
        let (rejected, ridden) = (self.by("match.rejected", "match_id"), self.ridden());
        for (id, offers) in self.by("match.found", "match_id") {
            let [offer] = offers[..] else {
                wrong.push(format!("match {id} was found {} times", offers.len()));
                continue;
            };
            let rejections = rejected.get(id).into_iter().flatten();
            let ended = rejections.map(|body| time(body, "rejected_at")).min();
            let Some(end) = ended.or(ridden.get(id).map(|events| end_of(events))) else {
                wrong.push(format!("match {id} never ended"));
                continue;
            };
            // users writes a time some microseconds after its clock's, so that the end of a search sorts after its beginning. In
            // simulated time, which stands still within a millisecond, the next offer may then seem to begin before that end.
            let end = end.checked_sub_signed(Duration::milliseconds(1)).unwrap_or(end);
            for role in ["driver_id", "passenger_id"] {
                spans.entry(text(offer, role)).or_default().push((time(offer, "found_at"), end, id));
            }
        }
        wrong.extend(overlaps("offers", spans));
        wrong
    }

    /// One ride for an accepted match or its rejection as superseded, one ride for a request at a time, and no answer given twice.
    /// A request has another ride only after its driver cancelled before the start, and never one with that driver.
    pub fn one_winner(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let [found, accepted, rejected] =
            ["match.found", "match.accepted", "match.rejected"].map(|subject| self.by(subject, "match_id"));
        let ridden = self.ridden();
        let mut of_request: BTreeMap<&str, Vec<&Vec<Event<'_>>>> = BTreeMap::new();
        for (id, events) in &ridden {
            let ride = text(events[0].body, "ride_id");
            let Some(acceptance) = accepted.get(id) else {
                wrong.push(format!("ride {ride}: nobody accepted match {id}"));
                continue;
            };
            for party in ["driver_id", "passenger_id"] {
                if acceptance[0][party] != events[0].body[party] {
                    wrong.push(format!("ride {ride}: its {party} is not the one of the accepted match {id}"));
                }
            }
            let request = text(acceptance[0], "request_id");
            of_request.entry(request).or_default().push(events);
        }
        for (request, mut rides) in of_request {
            rides.sort_by_key(|events| time(events[0].body, "occurred_at"));
            for pair in rides.windows(2) {
                let last = pair[0].last().map_or(&Value::Null, |event| event.body);
                if last["search_continues"] != true || text(last, "request_id") != request {
                    wrong.push(format!("request {request} became a second ride: {}", text(pair[1][0].body, "ride_id")));
                }
            }
            let drivers: BTreeSet<&str> = rides.iter().map(|events| text(events[0].body, "driver_id")).collect();
            if drivers.len() < rides.len() {
                wrong.push(format!("request {request}: who cancelled was sent again"));
            }
        }
        for (id, events) in &accepted {
            if events.len() > 1 {
                wrong.push(format!("match {id} was accepted {} times", events.len()));
            }
            let is_as_offered = |offer: &Value| {
                ["driver_id", "passenger_id", "request_id"].iter().all(|field| offer[field] == events[0][field])
            };
            if !found.get(id).is_some_and(|offers| is_as_offered(offers[0])) {
                wrong.push(format!("match {id} was accepted, but not offered so"));
            }
            let has = |reason| rejected.get(id).into_iter().flatten().any(|body| text(body, "reason") == reason);
            if has("declined") {
                wrong.push(format!("match {id} was accepted and declined"));
            }
            match (ridden.contains_key(id), has("superseded")) {
                (true, true) => wrong.push(format!("match {id} was accepted and became a ride and superseded")),
                (false, false) => wrong.push(format!("match {id} was accepted and became neither ride nor superseded")),
                _ => {}
            }
        }
        for (id, events) in &rejected {
            for reason in ["declined", "superseded"] {
                if events.iter().filter(|body| text(body, "reason") == reason).count() > 1 {
                    wrong.push(format!("match {id} was {reason} twice"));
                }
            }
            // match may cancel an offer for the sake of another one while the end of the search cancels it; and users says that one has
            // expired if the next offer arrives before match says so. Its parties get one of the two.
            for reason in ["cancelled", "expired"] {
                if events.iter().filter(|body| text(body, "reason") == reason).count() > 2 {
                    wrong.push(format!("match {id} was {reason} again and again"));
                }
            }
            if !found.contains_key(id) {
                wrong.push(format!("match {id} was rejected, but never found"));
            }
        }
        wrong
    }

    /// An end of a search that was announced is final: no ride comes of it, whatever was on its way.
    pub fn ended_searches(&self) -> Vec<String> {
        let ends = self.bodies("user.finder").filter(|body| body["active"] == false);
        let ended: BTreeSet<&str> = ends.map(|body| text(body, "request_id")).collect();
        let accepted = self.by("match.accepted", "match_id");
        let mut wrong = Vec::new();
        for (id, events) in self.ridden() {
            let request = accepted.get(id).map_or("", |bodies| text(bodies[0], "request_id"));
            // A search that went on after this ride ends like any other.
            let went_on = events.last().is_some_and(|last| last.body["search_continues"] == true);
            if ended.contains(request) && !went_on {
                wrong.push(format!("ride {}: its search {request} has ended", text(events[0].body, "ride_id")));
            }
        }
        wrong
    }

    /// The lines of a fare add up to its total, and so do fee and payout; each amount owed is captured once, and no other.
    pub fn fares(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut captures = self.by("payment.capture", "ride_id");
        for (ride, events) in &self.rides {
            let Some(last) = events.last() else { continue };
            let owed = fee_or_fare(last.body);
            if text(last.body, "status") == "completed" {
                let lines = last.body["fare"]["lines"].as_array().into_iter().flatten();
                let lines: i64 = lines.map(|line| cents(&line["amount"])).sum();
                let parts = cents(&last.body["platform_fee"]) + cents(&last.body["driver_payout"]);
                if owed <= 0 || owed != lines || owed != parts {
                    wrong.push(format!("ride {ride}: a fare of {owed}, its lines {lines}, fee and payout {parts}"));
                }
            }
            if text(last.body, "status") == "cancelled" {
                wrong.extend(cancellation_problems(events).into_iter().map(|what| format!("ride {ride}: {what}")));
            }
            let captured = captures.remove(ride).unwrap_or_default();
            let captured: Vec<i64> = captured.iter().map(|capture| cents(&capture["amount"])).collect();
            let due = if owed > 0 { vec![owed] } else { Vec::new() };
            if captured != due {
                wrong.push(format!("ride {ride}: {due:?} owed, {captured:?} to be captured"));
            }
        }
        wrong.extend(captures.keys().map(|ride| format!("ride {ride} is billed, and there is no such ride")));
        wrong
    }

    /// What the ledger says of each ride's payments, amount and whether it is captured, is what the ride owes.
    pub fn payments(&self, payments: &BTreeMap<&str, Vec<(i64, bool)>>) -> Vec<String> {
        let owed = |events: &[Event<'_>]| events.last().map_or(0, |last| fee_or_fare(last.body));
        let mut wrong = Vec::new();
        for (ride, events) in &self.rides {
            let (owed, paid) = (owed(events), payments.get(ride).map_or(&[][..], Vec::as_slice));
            let due = if owed > 0 { vec![(owed, true)] } else { Vec::new() };
            if paid != due {
                wrong.push(format!("ride {ride}: {owed} owed, payments {paid:?}"));
            }
        }
        wrong
    }

    /// The events of each ride, by its match.
    pub(super) fn ridden(&self) -> BTreeMap<&str, &Vec<Event<'_>>> {
        let rides = self.rides.values().filter(|events| !events.is_empty());
        rides.map(|events| (text(events[0].body, "match_id"), events)).collect()
    }
}
