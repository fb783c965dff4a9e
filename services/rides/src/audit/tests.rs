//! What the pure checks find in a stream and in tables that were tampered with.

use std::fmt::Write;

use chrono::Duration;
use platform::{Store, World};
use streams::bus::StoredMessage;
use streams::event::RideEvent;
use streams::memory::MemoryBus;
use streams::{Bus, RideId, RideStatus};
use uuid::Uuid;

use super::compare::{DatabaseCopy, Difference, RideComparison, StreamCopy};
use super::database::{DatabaseAudit, RideRecords};
use super::repair::plan;
use super::stream::{Beginning, StreamAudit};
use super::*;
use crate::event_log::EventRow;
use crate::event_log::rows::append_events;
use crate::hash_chain;
use crate::ledger;
use crate::payment::{Payment, PaymentStatus};
use crate::refund::Refund;
use crate::replay;
use crate::ride::Ride;
use crate::ride::requests::insert_fulfilled;
use crate::ride::rows::insert_rebuilt_rides;
use crate::ride::tests::{at, whole_ride};

/// The events of rides 1 to `rides`, one ride after the other, with their hashes.
fn rides(rides: u128) -> Vec<RideEvent> {
    (1..=rides)
        .flat_map(|ride| {
            let mut before = hash_chain::NO_PREVIOUS_HASH.to_owned();
            let mut events = whole_ride();
            for event in &mut events {
                event.ride_id = RideId(Uuid::from_u128(ride));
                event.match_id = streams::MatchId(Uuid::from_u128(100 + ride));
                event.previous_hash.clone_from(&before);
                event.hash = hash_chain::hash(event);
                before.clone_from(&event.hash);
            }
            events
        })
        .collect()
}

fn stored(events: &[RideEvent]) -> Vec<StoredMessage> {
    let of = |(n, event): (usize, &RideEvent)| {
        let message = EventRow::new(event, "00-1-2-01").message();
        let streams::Message { subject, headers, payload } = message;
        StoredMessage { subject, headers, payload, sequence: n as u64 + 1, stored_at: event.occurred_at }
    };
    events.iter().enumerate().map(of).collect()
}

fn audit_stream(messages: &[StoredMessage]) -> StreamAudit {
    let mut stream = StreamAudit::new(Beginning::Whole);
    for message in messages {
        stream.message(message);
    }
    stream
}

fn digests(messages: &[StoredMessage]) -> Vec<compare::Digest> {
    messages.iter().filter_map(StreamCopy::of).map(|(_, copy)| copy.digest).collect()
}

fn text(findings: &Findings) -> String {
    findings.listed().iter().fold(String::new(), |mut text, finding| {
        let _ = writeln!(text, "{finding}");
        text
    })
}

fn edit(message: &mut StoredMessage, from: &str, to: &str) {
    let body = String::from_utf8(message.payload.to_vec()).unwrap();
    assert!(body.contains(from), "{body}");
    message.payload = body.replacen(from, to, 1).into();
}

fn rehash(events: &mut [RideEvent]) {
    for n in 0..events.len() {
        if n > 0 && events[n - 1].ride_id == events[n].ride_id {
            events[n].previous_hash = events[n - 1].hash.clone();
        }
        events[n].hash = hash_chain::hash(&events[n]);
    }
}

/// The second ride of three is tampered with; its second event has the sequence 6.
type Tamper = fn(&mut Vec<RideEvent>, &mut Vec<StoredMessage>);

#[test]
fn a_sound_stream_has_no_finding() {
    let found = audit_stream(&stored(&rides(3)));
    assert_eq!((text(&found.findings), found.messages, found.live().count()), (String::new(), 12, 0));
}

#[test]
fn a_stream_of_an_older_version_without_request_ids_is_sound() {
    let mut events = rides(3);
    events.iter_mut().for_each(|event| event.request_id = None);
    rehash(&mut events);
    assert_eq!(text(&audit_stream(&stored(&events)).findings), "");
}

#[test]
fn every_tampering_is_named_with_ride_and_version() {
    const RIDE: &str = "ride 00000000-0000-0000-0000-000000000002";
    let cases: &[(&str, Tamper, &str)] = &[
        (
            "one byte of a number",
            |_, m| edit(&mut m[5], "40.758", "40.759"),
            "version 2 (sequence 6): the body was changed",
        ),
        (
            "one byte of a time",
            |_, m| edit(&mut m[6], "123456Z", "123457Z"),
            "version 3 (sequence 7): the body was changed",
        ),
        (
            "the amount of a fare",
            |_, m| edit(&mut m[7], "\"amount\":1300", "\"amount\":1400"),
            "version 4 (sequence 8)",
        ),
        (
            "one byte of the hash",
            |_, m| edit(&mut m[5], "\"hash\":\"", "\"hash\":\"0"),
            "unreadable: the body is no ride event",
        ),
        ("a brace", |_, m| edit(&mut m[5], "{", "["), "unreadable: the body is no ride event"),
        ("an event away", |e, _| drop(e.remove(5)), "version 3 (sequence 6): version 3 stands where version 2 belongs"),
        (
            "the first away",
            |e, _| drop(e.remove(4)),
            "version 2 (sequence 5): version 2 stands where version 1 belongs",
        ),
        ("two swapped", |e, _| e.swap(5, 6), "version 3 (sequence 6): version 3 stands where version 2 belongs"),
        ("one again", |e, _| e.insert(6, e[5].clone()), "version 2 (sequence 7): version 2 stands again, or too late"),
        (
            "one again after the end",
            |e, _| e.insert(8, e[5].clone()),
            "version 2 (sequence 9): version 2 stands where version 1",
        ),
        (
            "a wrong link, hash recomputed",
            |e, _| {
                e[6].previous_hash = e[4].hash.clone();
                e[6].hash = hash_chain::hash(&e[6]);
            },
            "version 3 (sequence 7): previous_hash is not the hash of the version before",
        ),
        (
            "a forged event, all hashes recomputed",
            |e, _| {
                e[5].status = RideStatus::Arrived;
                rehash(&mut e[4..8]);
            },
            "version 2 (sequence 6): arrived may not follow pickup",
        ),
        (
            "another driver, all hashes recomputed",
            |e, _| {
                e[6].driver_id = streams::UserId(Uuid::from_u128(77));
                rehash(&mut e[4..8]);
            },
            "version 3 (sequence 7): driver_id is not that of the version before",
        ),
        (
            "a payout that is not the fare's, all hashes recomputed",
            |e, _| {
                e[7].driver_payout = Some(streams::Money::usd(1));
                rehash(&mut e[4..8]);
            },
            "version 4 (sequence 8): platform_fee 260 and driver_payout 1 do not add up to 1300",
        ),
        (
            "back in time, all hashes recomputed",
            |e, _| {
                e[6].occurred_at = e[5].occurred_at - Duration::microseconds(1);
                rehash(&mut e[4..8]);
            },
            "version 3 (sequence 7): occurred_at is before that of the version before",
        ),
        (
            "another message id",
            |_, m| m[5].headers.set("Nats-Msg-Id", "ride.started-x-1"),
            "version 2 (sequence 6): the header Nats-Msg-Id is `ride.started-x-1` and must be",
        ),
        (
            "no headers",
            |_, m| m[5].headers = Default::default(),
            "version 2 (sequence 6): the header Nats-Msg-Id is missing",
        ),
    ];
    for (name, tamper, text_of_finding) in cases {
        // `tamper` changes either the events, from which the messages are then made, or the messages.
        let mut events = rides(3);
        let mut unused = stored(&events);
        tamper(&mut events, &mut unused);
        let mut messages = stored(&events);
        let sound = messages.clone();
        tamper(&mut rides(3), &mut messages);
        let found = audit_stream(&messages);
        let first = found.findings.listed().first().map(ToString::to_string).unwrap_or_default();
        let wanted = match text_of_finding.strip_prefix("unreadable: ") {
            Some(what) => format!("{RIDE} (sequence 6): {what}"),
            None => format!("{RIDE} {text_of_finding}"),
        };
        assert!(first.starts_with(&wanted), "{name}: {first}");
        assert!(text(&found.findings).lines().all(|line| line.starts_with(RIDE)), "{name}: {}", text(&found.findings));
        if messages != sound {
            assert_ne!(digests(&messages), digests(&sound), "{name}: the comparison sees it too");
        }
    }
}

#[test]
fn a_stream_that_has_lost_its_beginning_may_begin_in_the_middle_of_a_ride() {
    let mut trimmed = StreamAudit::new(Beginning::Trimmed);
    for message in &stored(&rides(3))[2..] {
        trimmed.message(message);
    }
    assert_eq!(text(&trimmed.findings), "");
}

#[test]
fn a_whole_ride_that_is_repeated_is_found_by_the_comparison_only() {
    let mut events = rides(1);
    events.extend(rides(1));
    let messages = stored(&events);
    assert_eq!(audit_stream(&messages).findings.count(), 0);
    let stream: Vec<StreamCopy> = messages.iter().filter_map(StreamCopy::of).map(|(_, copy)| copy).collect();
    let database = stream[..4].iter().map(|c| logged(c.version, c.digest)).collect();
    let found = RideComparison { stream, database }.differences();
    let repeated = |n: u64| (n as u32, Difference::Repeated(vec![n, n + 4]));
    assert_eq!(found, (1..=4).map(repeated).collect::<Vec<_>>());
}

/// The records of ride 1 as the platform would have written them.
fn records() -> RideRecords {
    let events = rides(1);
    let mut replayed = None;
    for event in &events {
        replayed = Some(replay::apply(replayed.as_ref().map(|(ride, _)| ride), event));
    }
    let (ride, bill) = replayed.unwrap();
    let payment = Payment::due(&ride, bill.unwrap().total);
    let mut entries = ledger::billed(&ride, &bill.unwrap()).unwrap().entries();
    entries.extend(ledger::captured(&payment, "ledger").unwrap().entries());
    RideRecords {
        ride_id: ride.ride_id,
        row: Some(ride),
        events: events.iter().map(|event| EventRow::new(event, "")).collect(),
        entries,
        payments: vec![Payment { status: PaymentStatus::Captured, tried_at: Some(at(9_999)), ..payment }],
        debts: Vec::new(),
        refunds: Vec::new(),
    }
}

/// The records with a refund of this amount, as an operator makes it.
fn refunded(amount: i64) -> RideRecords {
    let mut records = records();
    let payment = &records.payments[0];
    let refund = Refund {
        refund_id: streams::ActId(Uuid::from_u128(7)),
        ride_id: records.ride_id,
        payment_id: payment.payment_id,
        amount: streams::Money::new(amount, payment.amount.currency),
        reason: Some("a detour".to_owned()),
        by: "ann".to_owned(),
        at: at(9_999),
    };
    records.entries.extend(ledger::refunded(&refund, "ledger").unwrap().entries());
    records.refunds.push(refund);
    records
}

#[test]
fn a_refund_has_its_movement_and_is_of_what_was_captured() {
    assert_eq!(audit_database(&refunded(100)), "");
    let mut lost = refunded(100);
    lost.entries.truncate(5);
    assert!(audit_database(&lost).contains("the ledger (refund) has nothing on cash:"), "{}", audit_database(&lost));
    let mut unknown = refunded(100);
    unknown.refunds.clear();
    assert!(audit_database(&unknown).contains("the ledger (refund) has"), "{}", audit_database(&unknown));
    let mut changed = refunded(100);
    changed.refunds[0].amount.amount = 90;
    assert!(audit_database(&changed).contains("must have"), "{}", audit_database(&changed));
    let all = records().payments[0].amount.amount;
    assert_eq!(audit_database(&refunded(all)), "");
    assert!(audit_database(&refunded(all + 1)).contains("that was captured"));
    let mut pending = refunded(100);
    pending.payments[0].status = PaymentStatus::Pending;
    assert!(audit_database(&pending).contains("is of no payment that was captured"));
}

fn audit_database(records: &RideRecords) -> String {
    let mut database = DatabaseAudit::default();
    let sound = database.check(records);
    assert_eq!(sound, database.findings.count() == 0);
    text(&database.findings)
}

#[test]
fn sound_records_have_no_finding() {
    assert_eq!(audit_database(&records()), "");
    let mut pending = records();
    pending.entries.truncate(3);
    pending.payments[0].status = PaymentStatus::Pending;
    assert_eq!(audit_database(&pending), "");
}

#[test]
fn every_wrong_row_is_named() {
    type Wrong = fn(&mut RideRecords);
    let cases: &[(Wrong, &str)] = &[
        (|a| a.row = None, "it has events and no row"),
        (|a| a.events.clear(), "it has a row and no event"),
        (
            |a| a.row.as_mut().unwrap().status = RideStatus::Arrived,
            "has status \"arrived\", its events say \"completed\"",
        ),
        (|a| a.row.as_mut().unwrap().version = 3, "has version 3, its events say 4"),
        (|a| a.row.as_mut().unwrap().receipt = None, "has distance_m null, its events say 5000.0"),
        (|a| a.row.as_mut().unwrap().started_at = None, "has started_at null, its events say"),
        (|a| drop(a.events.pop()), "has status \"completed\", its events say \"arrived\""),
        (|a| drop(a.events.remove(1)), "version 3: in the database, version 3 stands where version 2 belongs"),
        (
            |a| a.events[1].body = a.events[1].body.replace("40.758", "40.759"),
            "version 2: in the database, the body was changed",
        ),
        (|a| a.events[1].hash = a.events[0].hash.clone(), "version 2: in the database, the column hash"),
        (|a| a.events[2].message_id.push('0'), "version 3: in the database, the column message_id"),
        (|a| a.entries[0].amount.amount += 1, "its ledger entries of kind fare add up to 0.01 USD"),
        (|a| drop(a.entries.remove(1)), "the ledger (fare) has nothing on driver:"),
        (
            |a| {
                a.entries[1].amount.amount -= 10;
                a.entries[2].amount.amount += 10;
            },
            "the ledger (fare) has -10.50 USD on driver:",
        ),
        (|a| a.entries.truncate(3), "the ledger (capture) has nothing on passenger:"),
        (
            |a| a.payments[0].status = PaymentStatus::Pending,
            "the ledger (capture) has 13.00 USD on cash:ledger, and must have nothing",
        ),
        (|a| a.payments.clear(), "it was billed once and has 0 payments"),
        (|a| a.payments.push(a.payments[0].clone()), "it was billed once and has 2 payments"),
        (|a| a.payments[0].amount.amount = 5, "its payment is"),
        (
            |a| {
                a.payments[0].status = PaymentStatus::Refused;
                a.entries.truncate(3);
            },
            "its debts are []",
        ),
    ];
    for (wrong, expected) in cases {
        let mut records = records();
        wrong(&mut records);
        let found = audit_database(&records);
        assert!(found.contains(expected), "{expected}: {found}");
        assert!(found.lines().all(|line| line.starts_with("ride 00000000-0000-0000-0000-000000000001")), "{found}");
    }
}

fn logged(version: u32, digest: compare::Digest) -> DatabaseCopy {
    DatabaseCopy { version, digest, occurred_at: at(i64::from(version)), may_be_expired: false }
}

/// The stream has the versions of `stream`, from sequence 1 on (a letter in place of the digit is another event). The event log has
/// versions 1 to `database`.
fn comparison(stream: &str, database: u32) -> RideComparison {
    let version = |c: char| c.to_digit(10).unwrap_or_else(|| c as u32 - 'a' as u32 + 1);
    let digest = |version: u32, other: bool| [version as u8 + if other { 100 } else { 0 }; 32];
    let copy = |(n, c): (usize, char)| StreamCopy {
        sequence: n as u64 + 1,
        version: version(c),
        digest: digest(version(c), c.is_alphabetic()),
    };
    RideComparison {
        stream: stream.chars().enumerate().map(copy).collect(),
        database: (1..=database).map(|v| logged(v, digest(v, false))).collect(),
    }
}

#[test]
fn each_version_that_differs_is_reported() {
    for (stream, database, expected) in [
        ("1234", 4, vec![]),
        ("134", 4, vec![(2, Difference::Missing)]),
        ("12234", 4, vec![(2, Difference::Repeated(vec![2, 3]))]),
        ("1b34", 4, vec![(2, Difference::Another(2))]),
        ("12345", 4, vec![(5, Difference::Unknown(5))]),
        ("", 2, vec![(1, Difference::Missing), (2, Difference::Missing)]),
    ] {
        assert_eq!(comparison(stream, database).differences(), expected, "{stream}");
    }
}

#[test]
fn an_expired_event_is_neither_missing_nor_repaired() {
    let mut ride = comparison("34", 4);
    ride.database[..2].iter_mut().for_each(|event| event.may_be_expired = true);
    assert_eq!(ride.differences(), []);
    assert_eq!(plan(&ride), Some(repair::Plan::default()));
    let mut ride = comparison("24", 4);
    ride.database[..2].iter_mut().for_each(|event| event.may_be_expired = true);
    assert_eq!(ride.differences(), [(3, Difference::Missing)]);
    assert_eq!(plan(&ride), Some(repair::Plan { publish: vec![3, 4], delete: vec![2] }));
}

#[test]
fn a_plan_makes_every_stream_whole_and_in_order() {
    for (stream, database, publish, delete) in [
        ("1234", 4, "", ""),
        ("", 4, "1234", ""),
        ("12", 4, "34", ""),
        ("134", 4, "234", "23"),
        ("234", 4, "1234", "123"),
        ("1324", 4, "34", "24"),
        ("12341234", 4, "", "5678"),
        ("134234", 4, "", "23"),
        ("1342", 4, "34", "23"),
    ] {
        let plan = plan(&comparison(stream, database)).unwrap();
        let written = |numbers: Vec<u64>| numbers.iter().map(u64::to_string).collect::<String>();
        let found = (written(plan.publish.iter().map(|v| u64::from(*v)).collect()), written(plan.delete.clone()));
        assert_eq!(found, (publish.to_owned(), delete.to_owned()), "{stream}");
        // The repaired stream has every version once and in order.
        let remaining = stream.chars().enumerate().filter(|(n, _)| !plan.delete.contains(&(*n as u64 + 1)));
        let repaired: String = remaining.map(|(_, c)| c).chain(publish.chars()).collect();
        assert_eq!(repaired, "1234", "{stream}");
    }
    for (stream, database) in [("1b34", 4), ("12345", 4), ("a", 0)] {
        assert_eq!(plan(&comparison(stream, database)), None, "{stream} is for a person");
    }
}

/// More rides than [`LISTED_MAX`], none of them sound in the database, none of them in the stream.
#[tokio::test]
async fn repair_never_publishes_an_unsound_ride_however_many_there_are() {
    let world = World::seeded(at(2_000), 1);
    let bus = Bus::Memory(MemoryBus::new(world.started_at(), 100_000));
    bus.apply(&Topology::rideshare()).await.unwrap();
    let store: Store<Tables> = Store::memory(&world, &"test".into());
    let rides_unsound = LISTED_MAX as u128 + 1;
    let events = rides(rides_unsound);
    let mut tx = store.begin().await.unwrap();
    append_events(&mut tx, events.iter().map(|event| EventRow::new(event, "")).collect()).await.unwrap();
    let rows: Vec<Ride> = events.iter().filter(|e| e.version == 1).map(Ride::from_event).collect();
    insert_rebuilt_rides(&mut tx, &rows).await.unwrap();
    tx.commit().await.unwrap();
    let repaired = Audit::new(&bus, &store, &world).repair().await.unwrap();
    assert_eq!((repaired.published, repaired.findings.count()), (0, rides_unsound as u64));
    assert_eq!(bus.stream_info(STREAM).await.unwrap().messages, 0);
}

#[tokio::test]
async fn rebuild_refuses_a_database_that_has_only_fulfilled_requests() {
    let world = World::seeded(at(0), 1);
    let bus = Bus::Memory(MemoryBus::new(world.started_at(), 1_000));
    bus.apply(&Topology::rideshare()).await.unwrap();
    let store: Store<Tables> = Store::memory(&world, &"test".into());
    let mut tx = store.begin().await.unwrap();
    insert_fulfilled(&mut tx, &[(world.id(), world.id())]).await.unwrap();
    tx.commit().await.unwrap();
    let refused = Audit::new(&bus, &store, &world).rebuild(Provider::Ledger).await;
    assert!(matches!(&refused, Err(AuditError::Refused(why)) if why.contains("served")), "{refused:?}");
}
