//! The invariants, from the books alone: nothing here is shared with the handlers, not the lifecycle, not the hash, not the
//! sums. Each finding names the ids.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use chrono::{DateTime, Utc};
use serde_json::Value;
use simulator::Observation;
use streams::Service;
use streams::topology::{TABLE, durable};

use crate::records::{Books, Outgoing, Ride};

/// Everything that is wrong.
pub(crate) fn all(books: &Books, notes: &[Observation]) -> Vec<String> {
    let mut wrong = Vec::new();
    wrong.extend(rides(books));
    wrong.extend(trail(books));
    wrong.extend(one_at_a_time(books));
    wrong.extend(one_winner(books));
    wrong.extend(money(books));
    wrong.extend(handled(books));
    wrong.extend(noted(books));
    wrong.extend(mailboxes(books, notes));
    wrong.extend(acks(books, notes));
    wrong.extend(letters(books));
    wrong
}

fn field<'a>(body: &'a Value, name: &str) -> &'a str {
    body[name].as_str().unwrap_or_default()
}

fn cents(body: &Value, pointer: &str) -> i64 {
    body.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The bodies of a ride's events, by version.
fn bodies(books: &Books) -> BTreeMap<&str, Vec<(i64, Value)>> {
    let mut bodies: BTreeMap<&str, Vec<(i64, Value)>> = BTreeMap::new();
    for kept in &books.kept {
        bodies.entry(&kept.ride_id).or_default().push((kept.version, serde_json::from_str(&kept.body).unwrap()));
    }
    bodies
}

/// Versions without gaps, a legal order with a final state last, hashes that chain, and the row as the last event says.
fn rides(books: &Books) -> Vec<String> {
    let mut wrong = Vec::new();
    let bodies = bodies(books);
    for ride in &books.rides {
        let events = bodies.get(ride.ride_id.as_str()).map_or(&[][..], Vec::as_slice);
        let mut say = |what: String| wrong.push(format!("ride {}: {what}", ride.ride_id));
        let order: Vec<&str> = events.iter().map(|(_, body)| field(body, "status")).collect();
        let legal = matches!(
            order[..],
            ["pickup", "started", "arrived", "completed"]
                | ["pickup", "cancelled"]
                | ["pickup", "started", "cancelled"]
        );
        if !legal {
            say(format!("its events are {order:?}"));
        }
        let mut previous = "0".repeat(64);
        for (n, (version, body)) in events.iter().enumerate() {
            if *version != n as i64 + 1 || body["version"] != *version {
                say(format!("version {version} stands where {} belongs", n + 1));
            }
            if field(body, "previous_hash") != previous {
                say(format!("version {version} does not hold the hash of the one before"));
            }
            previous = field(body, "hash").to_owned();
            if hash(body) != previous {
                say(format!("version {version} has not the hash that it names"));
            }
        }
        let last = order.last().copied().unwrap_or_default();
        if (ride.version, ride.status.as_str(), &ride.last_hash) != (events.len() as i64, last, &previous) {
            say(format!("its row says version {} {}, its events {} {last}", ride.version, ride.status, events.len()));
        }
    }
    let known: BTreeSet<&str> = books.rides.iter().map(|ride| ride.ride_id.as_str()).collect();
    wrong.extend(bodies.keys().filter(|id| !known.contains(*id)).map(|id| format!("ride {id}: events without a row")));
    wrong
}

/// SHA-256 over the RFC 8785 form of the body without `hash`.
pub(crate) fn hash(body: &Value) -> String {
    let mut body = body.clone();
    body.as_object_mut().unwrap().remove("hash");
    let canonical = serde_jcs::to_vec(&body).unwrap();
    digest::digest(&digest::SHA256, &canonical).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RIDE_STREAM has every event of every ride once, byte for byte, and in the order of each ride's versions.
fn trail(books: &Books) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut first: BTreeMap<&str, (usize, &[u8])> = BTreeMap::new();
    for (place, stored) in books.trail.iter().enumerate() {
        let id = stored.headers.find("Nats-Msg-Id").unwrap_or_default();
        match first.get(id) {
            None => {
                first.insert(id, (place, &stored.payload));
            }
            Some(_) => wrong.push(format!("RIDE_STREAM: {id} stands there twice, again as {}", stored.sequence)),
        }
    }
    let mut before: Option<(&str, usize)> = None;
    for kept in &books.kept {
        match first.remove(kept.message_id.as_str()) {
            None => wrong.push(format!("RIDE_STREAM: {} is missing", kept.message_id)),
            Some((_, body)) if body != kept.body.as_bytes() => {
                wrong.push(format!("RIDE_STREAM: {} has another body than the database", kept.message_id));
            }
            Some((place, _)) => {
                if before.is_some_and(|(ride, earlier)| ride == kept.ride_id && earlier > place) {
                    wrong.push(format!("RIDE_STREAM: {} comes before the version before it", kept.message_id));
                }
                before = Some((&kept.ride_id, place));
            }
        }
    }
    wrong.extend(first.keys().map(|id| format!("RIDE_STREAM: {id} is in no ride")));
    wrong
}

/// From pickup to the final event nobody is in another ride.
fn one_at_a_time(books: &Books) -> Vec<String> {
    type Span<'a> = (DateTime<Utc>, Option<DateTime<Utc>>, &'a str);
    let mut wrong = Vec::new();
    let bodies = bodies(books);
    let mut spans: BTreeMap<(&str, &str), Vec<Span<'_>>> = BTreeMap::new();
    for ride in &books.rides {
        let Some(events) = bodies.get(ride.ride_id.as_str()) else { continue };
        let at = |body: &Value| field(body, "occurred_at").parse::<DateTime<Utc>>().unwrap();
        let last = &events[events.len() - 1].1;
        let over = matches!(field(last, "status"), "completed" | "cancelled").then(|| at(last));
        for who in [("driver", ride.driver_id.as_str()), ("passenger", ride.passenger_id.as_str())] {
            spans.entry(who).or_default().push((at(&events[0].1), over, &ride.ride_id));
        }
    }
    for ((role, user), mut spans) in spans {
        spans.sort();
        for pair in spans.windows(2) {
            if pair[0].1.is_none_or(|over| over > pair[1].0) {
                wrong.push(format!("{role} {user} was in rides {} and {} at a time", pair[0].2, pair[1].2));
            }
        }
    }
    wrong
}

fn of<'a>(books: &'a Books, subject: &'a str) -> impl Iterator<Item = &'a Outgoing> {
    books.outbox.iter().filter(move |event| event.subject == subject)
}

/// One winner for an offer, one ride for a request, one ride for an accepted match, or its word that it lost.
fn one_winner(books: &Books) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut rides: BTreeMap<&str, &Ride> = BTreeMap::new();
    let mut requests: BTreeMap<&str, &str> = BTreeMap::new();
    let accepted = of(books, "match.accepted").map(|a| (field(&a.body, "match_id"), field(&a.body, "request_id")));
    let accepted: BTreeMap<&str, &str> = accepted.collect();
    for ride in &books.rides {
        if let Some(other) = rides.insert(&ride.match_id, ride) {
            wrong.push(format!("match {} became rides {} and {}", ride.match_id, other.ride_id, ride.ride_id));
        }
        let Some(request) = accepted.get(ride.match_id.as_str()) else {
            wrong.push(format!("ride {}: nobody accepted match {}", ride.ride_id, ride.match_id));
            continue;
        };
        if let Some(other) = requests.insert(request, &ride.ride_id) {
            wrong.push(format!("request {request} became rides {other} and {}", ride.ride_id));
        }
    }
    let mut answers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for rejected in of(books, "match.rejected") {
        let reasons = answers.entry(field(&rejected.body, "match_id")).or_default();
        if !reasons.insert(field(&rejected.body, "reason")) {
            wrong.push(format!("match {}: rejected twice", field(&rejected.body, "match_id")));
        }
    }
    let mut accepted = BTreeSet::new();
    for event in of(books, "match.accepted") {
        let id = field(&event.body, "match_id");
        if !accepted.insert(id) {
            wrong.push(format!("match {id}: accepted twice"));
        }
        let superseded = answers.get(id).is_some_and(|reasons| reasons.contains("superseded"));
        match rides.get(id) {
            Some(ride) if superseded => wrong.push(format!("match {id}: superseded, and ride {}", ride.ride_id)),
            Some(ride) if ride.driver_id != field(&event.body, "driver_id") => {
                wrong.push(format!("ride {}: its driver is not who accepted match {id}", ride.ride_id));
            }
            None if !superseded => wrong.push(format!("match {id}: accepted, and neither ride nor superseded")),
            _ => {}
        }
    }
    let strangers = rides.iter().filter(|(id, _)| !accepted.contains(*id));
    wrong.extend(strangers.map(|(id, ride)| format!("ride {}: nobody accepted match {id}", ride.ride_id)));
    wrong
}

/// One charge for what is owed, none for what is not; every transaction adds up to 0, and the fare to its parts.
fn money(books: &Books) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
    let mut kinds: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for entry in &books.ledger {
        *sums.entry(&entry.transaction_id).or_default() += entry.amount;
        kinds.entry((&entry.ride_id, &entry.kind)).or_default().insert(&entry.transaction_id);
    }
    for (transaction, sum) in sums.iter().filter(|(_, sum)| **sum != 0) {
        wrong.push(format!("ledger: transaction {transaction} adds up to {sum}"));
    }
    for ((ride, kind), transactions) in kinds.iter().filter(|(_, transactions)| transactions.len() > 1) {
        wrong.push(format!("ride {ride}: {} transactions of kind {kind}", transactions.len()));
    }
    let bodies = bodies(books);
    for ride in &books.rides {
        let id = ride.ride_id.as_str();
        let Some((_, last)) = bodies.get(id).and_then(|events| events.last()) else { continue };
        let (owed, kind) = match field(last, "status") {
            "completed" => (cents(last, "/fare/total/amount"), "fare"),
            _ => (cents(last, "/fee/amount"), "cancellation"),
        };
        let mut say = |what: String| wrong.push(format!("ride {id}: {what}"));
        if kind == "fare" {
            let lines: i64 = last["fare"]["lines"]
                .as_array()
                .map_or(0, |lines| lines.iter().map(|line| cents(line, "/amount/amount")).sum());
            let parts = cents(last, "/platform_fee/amount") + cents(last, "/driver_payout/amount");
            if owed <= 0 || owed != lines || owed != parts {
                say(format!("a fare of {owed}, its lines {lines}, fee and payout {parts}"));
            }
        }
        let payments: Vec<_> = books.payments.iter().filter(|(of, ..)| of == id).collect();
        let debited = |kind: &str, account: &str| -> i64 {
            let lines =
                books.ledger.iter().filter(|e| e.ride_id == id && e.kind == kind && e.account.starts_with(account));
            lines.map(|e| e.amount).sum()
        };
        if debited(kind, "passenger:") != owed {
            say(format!("{owed} owed, {} in the ledger", debited(kind, "passenger:")));
        }
        match (&payments[..], owed) {
            ([], 0) => {}
            ([(_, amount, status)], _) if *amount == owed && status == "captured" => {
                if debited("capture", "cash:") != owed {
                    say(format!("{owed} captured, {} in the ledger", debited("capture", "cash:")));
                }
            }
            _ => say(format!("{owed} owed, payments {payments:?}")),
        }
    }
    wrong
}

fn service(name: &str) -> Service {
    Service::ALL.into_iter().find(|service| service.name() == name).unwrap()
}

/// Every event that was committed was published, and every consumer has handled it or dead-lettered it.
fn handled(books: &Books) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut dead: BTreeSet<(&str, &str)> = BTreeSet::new();
    for letter in &books.dead {
        let header = |name| letter.headers.find(name).unwrap_or_default();
        dead.insert((header("Dead-Letter-Consumer"), header("Dead-Letter-Message-Id")));
    }
    let mut ids = BTreeSet::new();
    for event in &books.outbox {
        if !event.published {
            wrong.push(format!("{}: {} was never published", event.service, event.message_id));
        }
        if !ids.insert(&event.message_id) {
            wrong.push(format!("{}: two events have the id {}", event.service, event.message_id));
        }
        let row = TABLE.iter().find(|row| row.subject.as_str() == event.subject).unwrap();
        if !row.writers.contains(&service(event.service)) {
            wrong.push(format!("{}: published {}", event.service, event.message_id));
        }
        for reader in row.readers {
            let consumer = durable(row.subject, *reader);
            // The rows of location tell repeats themselves; of aggregates rides writes down the final one.
            let unnoted = *reader == Service::Location
                || (*reader == Service::Rides && event.subject == "location.aggregate" && event.body["final"] == false);
            let noted = unnoted || books.inbox.contains(&(consumer.clone(), event.message_id.clone()));
            if !noted && !dead.contains(&(consumer.as_str(), event.message_id.as_str())) {
                wrong.push(format!("{consumer}: {} was neither handled nor dead-lettered", event.message_id));
            }
        }
    }
    wrong
}

/// Nothing is noted as handled that nobody published. (A message without an id is noted by its place.)
fn noted(books: &Books) -> Vec<String> {
    let ids: BTreeSet<&str> = books.outbox.iter().map(|event| event.message_id.as_str()).collect();
    let strange = books.inbox.iter().filter(|(_, id)| !ids.contains(id.as_str()) && !id.contains("_STREAM-"));
    strange.map(|(consumer, id)| format!("{consumer}: {id} is noted, and nobody published it")).collect()
}

/// Mailboxes have no gap, nothing twice, all that concerns their user, and nothing that does not.
fn mailboxes(books: &Books, notes: &[Observation]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut boxes: BTreeMap<&str, BTreeMap<u64, &str>> = BTreeMap::new();
    let seen = notes.iter().filter_map(|note| match note {
        Observation::Event { user_id, seq, event_id, .. } => Some((user_id.as_str(), *seq, event_id.as_str())),
        Observation::Acked { .. } => None,
    });
    let rows = books.letters.iter().map(|(user, seq, event)| (user.as_str(), *seq, event.as_str()));
    for (user, seq, event) in rows.chain(seen) {
        let before = boxes.entry(user).or_default().insert(seq, event);
        if before.is_some_and(|before| before != event) {
            wrong.push(format!("mailbox of {user}: seq {seq} is {event} and was {}", before.unwrap_or_default()));
        }
    }
    let mut due: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for event in &books.outbox {
        let users: &[&str] = match event.subject.split('.').next() {
            Some("user") => &["user_id"],
            Some("match" | "ride") => &["driver_id", "passenger_id"],
            _ => &[],
        };
        for user in users {
            due.entry(field(&event.body, user)).or_default().insert(&event.message_id);
        }
    }
    let passengers: BTreeMap<&str, &str> =
        books.rides.iter().map(|ride| (ride.ride_id.as_str(), ride.passenger_id.as_str())).collect();
    let mut aggregates: BTreeMap<&str, &str> = BTreeMap::new();
    for event in of(books, "location.aggregate") {
        let passenger = passengers.get(field(&event.body, "ride_id")).copied().unwrap_or_default();
        aggregates.insert(&event.message_id, passenger);
    }
    for (user, due) in &due {
        let (last, acked) = books.heads.get(*user).copied().unwrap_or_default();
        let letters = boxes.remove(user).unwrap_or_default();
        for seq in (1..=last).filter(|seq| !letters.contains_key(seq)) {
            wrong.push(format!("mailbox of {user}: seq {seq} of {last} (acked {acked}) is nowhere"));
        }
        for seq in letters.keys().filter(|seq| **seq == 0 || **seq > last) {
            wrong.push(format!("mailbox of {user}: seq {seq} beyond {last}"));
        }
        let mut found = BTreeSet::new();
        for (seq, event) in &letters {
            if !found.insert(*event) {
                wrong.push(format!("mailbox of {user}: {event} twice, again as seq {seq}"));
            }
            if !due.contains(event) && aggregates.get(event) != Some(user) && !foreign(event) {
                wrong.push(format!("mailbox of {user}: seq {seq}, {event}, is not theirs"));
            }
        }
        wrong.extend(due.difference(&found).map(|event| format!("mailbox of {user}: {event} is missing")));
    }
    wrong.extend(boxes.keys().map(|user| format!("mailbox of {user}: nothing concerns them")));
    wrong
}

/// The id of a message that came without one.
fn foreign(event: &str) -> bool {
    event
        .split_once('-')
        .is_some_and(|(stream, sequence)| stream.ends_with("_STREAM") && sequence.parse::<u64>().is_ok())
}

/// Every command that was acked has its effect.
fn acks(books: &Books, notes: &[Observation]) -> Vec<String> {
    let mut wrong = Vec::new();
    let ids = |subject: &'static str, name: &'static str| -> BTreeSet<&str> {
        of(books, subject).map(|event| field(&event.body, name)).collect()
    };
    let (requests, accepted, rejected) =
        (ids("user.finder", "request_id"), ids("match.accepted", "match_id"), ids("match.rejected", "match_id"));
    let beacons = ids("user.beacon", "user_id");
    let steps: BTreeSet<(&str, &str)> =
        books.kept.iter().map(|kept| (kept.ride_id.as_str(), kept.message_id.split('-').next().unwrap())).collect();
    for note in notes {
        let Observation::Acked { user_id, kind, command_data: asked, ack_data: answer } = note else { continue };
        let (ride, matched) = (field(asked, "ride_id"), field(asked, "match_id"));
        let done = match *kind {
            "finder.update" => answer["request_id"].is_null() || requests.contains(field(answer, "request_id")),
            "match.accept" => accepted.contains(matched),
            "match.reject" => rejected.contains(matched),
            "ride.start" => steps.contains(&(ride, "ride.started")),
            "ride.arrive" => steps.contains(&(ride, "ride.arrived")),
            "ride.cancel" => steps.contains(&(ride, "ride.cancelled")),
            "mailbox.ack" => {
                let acked = books.heads.get(user_id).map_or(0, |(_, acked)| *acked);
                asked["seq"].as_u64().is_some_and(|seq| seq <= acked)
            }
            "beacon.update" => beacons.contains(user_id.as_str()),
            _ => true,
        };
        if !done {
            wrong.push(format!("{user_id}: {kind} {asked} was acked with {answer} and has no effect"));
        }
    }
    wrong
}

/// At most one dead letter for a failed message and consumer.
fn letters(books: &Books) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let place = |letter: &streams::bus::StoredMessage| {
        let header = |name| letter.headers.find(name).unwrap_or_default().to_owned();
        (header("Dead-Letter-Consumer"), header("Dead-Letter-Stream"), header("Dead-Letter-Sequence"))
    };
    let twice = books.dead.iter().map(place).filter(|place| !seen.insert(place.clone()));
    twice.map(|(consumer, stream, sequence)| format!("{consumer}: two dead letters for {stream} {sequence}")).collect()
}

/// Who wrote for match, in the order of writing, against who held its lease: a stopped and revived process must write
/// nothing with an old claim. `held` is epoch and holder, as far as it was seen.
pub(crate) fn fencing(books: &Books, held: &[(i64, String)]) -> Vec<String> {
    let mut holders: Vec<Option<&str>> = Vec::new();
    let mut next = 1;
    for (epoch, holder) in held {
        // Who held an epoch that nobody saw is not known.
        holders.extend((next..*epoch).map(|_| None));
        holders.push(Some(holder));
        next = epoch + 1;
    }
    let mut writers: Vec<&str> = books.outbox.iter().filter(|e| e.service == "match").map(|e| e.pod.as_str()).collect();
    writers.dedup();
    let mut order = holders.iter();
    for writer in &writers {
        if !order.any(|holder| holder.is_none_or(|holder| holder == *writer)) {
            return vec![format!("match: {writer} wrote with an old claim; writers {writers:?}, holders {held:?}")];
        }
    }
    Vec::new()
}
