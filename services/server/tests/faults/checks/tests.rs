//! The checks themselves: records of one sound ride pass, and each way in which they could be wrong is found.

use bytes::Bytes;
use chrono::DateTime;
use serde_json::{Value, json};
use simulator::Observation;
use streams::Headers;
use streams::bus::StoredMessage;
use streams::topology::{TABLE, durable};
use testing::invariants::hash;

use crate::checks;
use crate::records::{EventRow, LedgerEntry, OutboxRow, Records, RideRow};

fn outgoing(service: &'static str, subject: &str, body: Value) -> OutboxRow {
    let message_id = format!("{subject}-1-1");
    OutboxRow { service, message_id, subject: subject.to_owned(), body, pod: "match-0.1".to_owned(), published: true }
}

fn entry(kind: &str, account: &str, amount: i64) -> LedgerEntry {
    let (transaction_id, ride_id) = (format!("t-{kind}"), "r".to_owned());
    LedgerEntry { transaction_id, ride_id, kind: kind.to_owned(), account: account.to_owned(), amount }
}

/// A passenger's search, a driver's acceptance, and the completed ride.
fn sound() -> Records {
    let mut records = Records::default();
    let offer = json!({"match_id": "m", "request_id": "q", "driver_id": "d", "passenger_id": "p"});
    records.outbox = vec![
        outgoing("users", "user.finder", json!({"user_id": "p", "request_id": "q", "active": true})),
        outgoing("match", "match.found", with(&offer, "found_at", "2025-12-31T00:00:00Z")),
        outgoing("users", "match.accepted", offer.clone()),
    ];
    let mut previous = "0".repeat(64);
    for (n, status) in ["pickup", "started", "arrived", "completed"].into_iter().enumerate() {
        let mut body = offer.clone();
        body["ride_id"] = json!("r");
        body["version"] = json!(n + 1);
        body["status"] = json!(status);
        body["occurred_at"] = json!(format!("2026-01-01T00:00:0{n}.000Z"));
        body["previous_hash"] = json!(previous);
        if status == "completed" {
            body["fare"] = json!({"lines": [{"amount": {"amount": 100}}], "total": {"amount": 100}});
            body["platform_fee"] = json!({"amount": 20});
            body["driver_payout"] = json!({"amount": 80});
        }
        previous = hash(&body);
        body["hash"] = json!(previous);
        let event = outgoing("rides", &format!("ride.{status}"), body);
        let (text, mut headers) = (event.body.to_string(), Headers::default());
        headers.set("Nats-Msg-Id", &event.message_id);
        records.ride_stream.push(StoredMessage {
            subject: event.subject.clone(),
            headers,
            payload: Bytes::from(text.clone()),
            sequence: n as u64 + 1,
            stored_at: DateTime::UNIX_EPOCH,
        });
        let (ride_id, message_id) = ("r".to_owned(), event.message_id.clone());
        records.events.push(EventRow { ride_id, version: n as i64 + 1, message_id, body: text });
        records.outbox.push(event);
    }
    records.outbox.push(outgoing("rides", "payment.capture", json!({"ride_id": "r", "amount": {"amount": 100}})));
    let [ride_id, match_id, driver_id, passenger_id] = ["r", "m", "d", "p"].map(str::to_owned);
    let (version, status, last_hash) = (4, "completed".to_owned(), previous);
    records.rides = vec![RideRow { ride_id, match_id, driver_id, passenger_id, version, status, last_hash }];
    records.ledger = vec![
        entry("fare", "passenger:p", 100),
        entry("fare", "driver:d", -80),
        entry("fare", "platform:revenue", -20),
        entry("capture", "cash:ledger", 100),
        entry("capture", "passenger:p", -100),
    ];
    records.payments = vec![("r".to_owned(), 100, "captured".to_owned())];
    for event in &records.outbox {
        for row in TABLE.iter().filter(|row| row.subject.as_str() == event.subject) {
            let consumers = row.readers.iter().map(|reader| durable(row.subject, *reader));
            records.inbox.extend(consumers.map(|consumer| (consumer, event.message_id.clone())));
        }
    }
    for user in ["d", "p"] {
        let theirs = records
            .outbox
            .iter()
            .filter(|e| [&e.body["user_id"], &e.body["driver_id"], &e.body["passenger_id"]].contains(&&json!(user)));
        let ids: Vec<String> = theirs.map(|event| event.message_id.clone()).collect();
        records.mailbox_heads.insert(user.to_owned(), (ids.len() as u64, 0));
        records.mailboxes.extend(ids.into_iter().zip(1..).map(|(id, seq)| (user.to_owned(), seq, id)));
    }
    records
}

fn with(body: &Value, field: &str, value: &str) -> Value {
    let mut body = body.clone();
    body[field] = json!(value);
    body
}

fn dead_letter() -> StoredMessage {
    let mut headers = Headers::default();
    headers.set("Dead-Letter-Consumer", "c");
    StoredMessage {
        subject: "dead_letter.c".to_owned(),
        headers,
        payload: Bytes::new(),
        sequence: 1,
        stored_at: DateTime::UNIX_EPOCH,
    }
}

fn edit(body: &mut String, from: &str, to: &str) {
    assert!(body.contains(from), "{body}");
    *body = body.replace(from, to);
}

#[test]
fn sound_records_have_no_violation() {
    let acked = Observation::Acked {
        user_id: "d".into(),
        kind: "match.accept",
        command_data: json!({"match_id": "m"}),
        ack_data: json!({}),
    };
    assert_eq!(checks::all(&sound(), &[acked]), Vec::<String>::new());
    assert_eq!(checks::fencing(&sound(), &[(1, "match-0.1".to_owned())]), Vec::<String>::new());
}

#[test]
fn each_violation_is_found() {
    type Break = fn(&mut Records);
    let cases: [(&str, Break); 28] = [
        ("its events are", |b| drop(b.events.remove(2))),
        ("has not the hash that it names", |b| edit(&mut b.events[1].body, "00:00:01", "00:00:07")),
        ("does not hold the hash of the one before", |b| edit(&mut b.events[0].body, "\"hash\":\"", "\"hash\":\"0")),
        ("its row says RideRow", |b| b.rides[0].version = 3),
        ("events without a row", |b| drop(b.rides.pop())),
        ("ride.started-1-1 is missing", |b| drop(b.ride_stream.remove(1))),
        ("is stored twice", |b| b.ride_stream.push(b.ride_stream[0].clone())),
        ("another body than the database", |b| b.ride_stream[0].payload = Bytes::from_static(b"{}")),
        ("comes before the version before it", |b| b.ride_stream.swap(0, 1)),
        ("is in no ride", |b| b.ride_stream[0].headers.set("Nats-Msg-Id", "other")),
        ("m was accepted and became neither ride nor superseded", |b| {
            b.events.iter_mut().for_each(|row| edit(&mut row.body, "\"match_id\":\"m\"", "\"match_id\":\"n\""));
        }),
        ("nobody accepted match n", |b| edit(&mut b.events[0].body, "\"match_id\":\"m\"", "\"match_id\":\"n\"")),
        ("its driver_id is not the one of the accepted match m", |b| {
            edit(&mut b.events[0].body, "\"driver_id\":\"d\"", "\"driver_id\":\"e\"");
        }),
        ("m was accepted 2 times", |b| b.outbox.push(outgoing("users", "match.accepted", b.outbox[2].body.clone()))),
        ("adds up to 1", |b| b.ledger[0].amount += 1),
        ("2 transactions of kind fare", |b| {
            b.ledger[0].transaction_id = "t2".to_owned();
        }),
        ("100 owed, 0 debited to passenger: by the fare", |b| drop(b.ledger.remove(0))),
        ("100 owed, payments []", |b| b.payments.clear()),
        ("100 owed, payments [(100, true), (100, true)]", |b| b.payments.push(b.payments[0].clone())),
        ("was never published", |b| b.outbox[0].published = false),
        ("x is in its inbox, and nobody published it", |b| {
            b.inbox.insert(("match_found_users".to_owned(), "x".to_owned()));
        }),
        ("neither handled nor dead-lettered", |b| drop(b.inbox.pop_first())),
        ("seq 2 of 6 is nowhere", |b| b.mailboxes.retain(|l| (l.0.as_str(), l.1) != ("d", 2))),
        ("match.accepted-1-1 is missing", |b| b.mailboxes.retain(|l| (l.0.as_str(), l.1) != ("d", 2))),
        ("is not theirs", |b| {
            b.mailboxes.push(("d".to_owned(), 7, "user.finder-1-1".to_owned()));
            b.mailbox_heads.insert("d".to_owned(), (7, 0));
        }),
        ("twice, again as seq 7", |b| {
            b.mailboxes.push(("d".to_owned(), 7, "match.found-1-1".to_owned()));
            b.mailbox_heads.insert("d".to_owned(), (7, 0));
        }),
        ("two dead letters", |b| b.dead = vec![dead_letter(), dead_letter()]),
        ("is in two rides at", |b| {
            let EventRow { body, .. } = &b.events[0];
            let (ride_id, body) = ("s".to_owned(), body.clone());
            b.events.push(EventRow { ride_id: ride_id.clone(), version: 1, message_id: "x".to_owned(), body });
            let [match_id, driver_id, passenger_id] = ["n", "d", "z"].map(str::to_owned);
            let (version, status, last_hash) = (1, "pickup".to_owned(), String::new());
            b.rides.push(RideRow { ride_id, match_id, driver_id, passenger_id, version, status, last_hash });
        }),
    ];
    for (found, broken) in cases {
        let mut records = sound();
        broken(&mut records);
        let wrong = checks::all(&records, &[]);
        assert!(wrong.iter().any(|text| text.contains(found)), "{found}: {wrong:#?}");
    }
}

#[test]
fn an_ack_without_effect_and_a_write_under_an_old_epoch_are_found() {
    for (kind, asked) in [
        ("match.accept", json!({"match_id": "other"})),
        ("match.reject", json!({"match_id": "m"})),
        ("ride.start", json!({"ride_id": "other"})),
        ("ride.cancel", json!({"ride_id": "r"})),
        ("mailbox.ack", json!({"seq": 3})),
        ("beacon.update", json!({"active": true})),
    ] {
        let note = Observation::Acked { user_id: "p".into(), kind, command_data: asked, ack_data: json!({}) };
        let wrong = checks::all(&sound(), &[note]);
        assert!(wrong.len() == 1 && wrong[0].contains("has no effect"), "{kind}: {wrong:?}");
    }
    let leases = |names: &[&str]| (1..).zip(names.iter().map(|n| (*n).to_owned())).collect::<Vec<_>>();
    let mut records = sound();
    for pod in ["match-1.1", "match-0.1"] {
        records.outbox.push(OutboxRow { pod: pod.to_owned(), ..outgoing("match", "match.found", json!({})) });
    }
    assert_eq!(checks::fencing(&records, &leases(&["match-0.1", "match-1.1", "match-0.1"])), Vec::<String>::new());
    assert_eq!(checks::fencing(&records, &leases(&["match-0.1", "match-1.1"])).len(), 1);
    let unseen = [(1, "match-0.1".to_owned()), (2, "match-1.1".to_owned()), (4, "match-1.1".to_owned())];
    assert_eq!(checks::fencing(&records, &unseen), Vec::<String>::new());
}
