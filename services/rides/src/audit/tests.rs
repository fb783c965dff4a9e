//! What tampering with a trail shows, by the pure checks alone.

use std::fmt::Write;

use chrono::Duration;
use streams::RideStatus;
use streams::bus::StoredMessage;
use streams::event::RideEvent;
use uuid::Uuid;

use super::database::{Account, Books};
use super::prints::Fingerprints;
use super::repair::plan;
use super::stream::Trail;
use super::suspects::{Copy, Kept, Suspect, Verdict, message};
use super::*;
use crate::event_log::KeptEvent;
use crate::hash_chain;
use crate::ledger;
use crate::payment::{Payment, PaymentStatus};
use crate::replay;
use crate::ride::tests::{at, whole_ride};

/// The events of rides 1 to `rides`, one ride after the other, sealed anew.
fn rides(rides: u128) -> Vec<RideEvent> {
    (1..=rides)
        .flat_map(|ride| {
            let mut before = hash_chain::NOTHING_BEFORE.to_owned();
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
        let message = message(&KeptEvent::of(event, "00-1-2-01"));
        let streams::Message { subject, headers, payload } = message;
        StoredMessage { subject, headers, payload, sequence: n as u64 + 1, stored_at: event.occurred_at }
    };
    events.iter().enumerate().map(of).collect()
}

fn trail(messages: &[StoredMessage]) -> Trail {
    let mut trail = Trail::new(true, at(-1_000));
    for message in messages {
        trail.message(message);
    }
    trail
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

fn seal(events: &mut [RideEvent]) {
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
fn a_sound_trail_has_no_finding() {
    let found = trail(&stored(&rides(3)));
    assert_eq!((text(&found.findings), found.messages, found.live().count()), (String::new(), 12, 0));
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
            "a wrong link, sealed",
            |e, _| {
                e[6].previous_hash = e[4].hash.clone();
                e[6].hash = hash_chain::hash(&e[6]);
            },
            "version 3 (sequence 7): previous_hash is not the hash of the version before",
        ),
        (
            "a forged event, all sealed anew",
            |e, _| {
                e[5].status = RideStatus::Arrived;
                seal(&mut e[4..8]);
            },
            "version 2 (sequence 6): arrived may not follow pickup",
        ),
        (
            "another driver, all sealed anew",
            |e, _| {
                e[6].driver_id = streams::UserId(Uuid::from_u128(77));
                seal(&mut e[4..8]);
            },
            "version 3 (sequence 7): driver_id is not that of the version before",
        ),
        (
            "a payout that is not the fare's, all sealed anew",
            |e, _| {
                e[7].driver_payout = Some(streams::Money::usd(1));
                seal(&mut e[4..8]);
            },
            "version 4 (sequence 8): platform_fee 260 and driver_payout 1 do not add up to 1300",
        ),
        (
            "back in time, all sealed anew",
            |e, _| {
                e[6].occurred_at = e[5].occurred_at - Duration::microseconds(1);
                seal(&mut e[4..8]);
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
    for (name, tamper, told) in cases {
        // It changes the events before they are published, or the messages after that; what it does to the other is dropped.
        let mut events = rides(3);
        let mut unused = stored(&events);
        tamper(&mut events, &mut unused);
        let mut messages = stored(&events);
        let sound = messages.clone();
        tamper(&mut rides(3), &mut messages);
        let found = trail(&messages);
        let first = found.findings.listed().first().map(ToString::to_string).unwrap_or_default();
        let wanted = match told.strip_prefix("unreadable: ") {
            Some(what) => format!("{RIDE} (sequence 6): {what}"),
            None => format!("{RIDE} {told}"),
        };
        assert!(first.starts_with(&wanted), "{name}: {first}");
        assert!(text(&found.findings).lines().all(|line| line.starts_with(RIDE)), "{name}: {}", text(&found.findings));
        if messages != sound {
            assert_ne!(found.prints, trail(&sound).prints, "{name}: the fingerprints tell it too");
        }
    }
}

#[test]
fn what_only_a_longer_memory_tells_shows_in_the_fingerprints() {
    let events = rides(3);
    let sound = trail(&stored(&events));
    // A whole ride again: each copy is sound by itself.
    let mut again = events.clone();
    again.extend_from_slice(&events[4..8]);
    let again = trail(&stored(&again));
    assert_eq!(again.findings.count(), 0);
    let groups = again.prints.differing(&sound.prints, &[], 1_000);
    assert_eq!(groups.len(), 1);
    let has: Vec<bool> = (1..=3).map(|n| groups[0].has(RideId(Uuid::from_u128(n)))).collect();
    assert_eq!(has, [false, true, false]);
    // Of a stream that has lost its beginning, a ride may begin anywhere.
    let mut trimmed = Trail::new(false, at(-1_000));
    for message in &stored(&events)[2..] {
        trimmed.message(message);
    }
    assert_eq!(text(&trimmed.findings), "");
    assert!(sound.prints.differing(&sound.prints, &[], 1_000).is_empty());
}

#[test]
fn groups_are_bounded_and_hold_every_difference() {
    let (mut one, two) = (Fingerprints::default(), Fingerprints::default());
    let ids: Vec<RideId> = (0..100).map(|n| RideId(Uuid::from_u128(n))).collect();
    for (n, ride) in ids.iter().enumerate() {
        for copy in 0..5 {
            one.add(*ride, (n * 5 + copy) as u128);
        }
    }
    let groups = one.differing(&two, &[RideId(Uuid::from_u128(5_000))], 20);
    assert_eq!(groups.len(), 25, "four rides of five events each");
    for ride in &ids {
        assert_eq!(groups.iter().filter(|group| group.has(*ride)).count(), 1);
    }
    assert!(groups.iter().any(|group| group.has(RideId(Uuid::from_u128(5_000)))));
}

/// The account of ride 1 as the platform would have written it.
fn account() -> Account {
    let events = rides(1);
    let mut told = None;
    for event in &events {
        told = Some(replay::after(told.as_ref().map(|(ride, _)| ride), event));
    }
    let (ride, bill) = told.unwrap();
    let payment = Payment::due(&ride, bill.unwrap().total);
    let mut entries = ledger::owed(&ride, &bill.unwrap()).unwrap().entries();
    entries.extend(ledger::captured(&payment, "ledger").unwrap().entries());
    Account {
        ride_id: ride.ride_id,
        row: Some(ride),
        events: events.iter().map(|event| KeptEvent::of(event, "")).collect(),
        entries,
        payments: vec![Payment { status: PaymentStatus::Captured, tried_at: Some(at(9_999)), ..payment }],
        debts: Vec::new(),
    }
}

fn books(account: &Account) -> String {
    let mut books = Books::new(at(-1_000));
    books.account(account);
    text(&books.findings)
}

#[test]
fn a_sound_account_has_no_finding() {
    assert_eq!(books(&account()), "");
    let mut pending = account();
    pending.entries.truncate(3);
    pending.payments[0].status = PaymentStatus::Pending;
    assert_eq!(books(&pending), "");
}

#[test]
fn every_wrong_row_is_named() {
    type Wrong = fn(&mut Account);
    let cases: &[(Wrong, &str)] = &[
        (|a| a.row = None, "it has events and no row"),
        (|a| a.events.clear(), "it has a row and no event"),
        (|a| a.row.as_mut().unwrap().status = RideStatus::Arrived, "has status Arrived, its events tell Completed"),
        (|a| a.row.as_mut().unwrap().version = 3, "has version 3, its events tell 4"),
        (|a| a.row.as_mut().unwrap().receipt = None, "has a receipt None"),
        (|a| a.row.as_mut().unwrap().started_at = None, "has started_at None"),
        (|a| drop(a.events.pop()), "has status Completed, its events tell Arrived"),
        (|a| drop(a.events.remove(1)), "version 3: in the database, version 3 stands where version 2 belongs"),
        (
            |a| a.events[1].body = a.events[1].body.replace("40.758", "40.759"),
            "version 2: in the database, the body was changed",
        ),
        (|a| a.events[1].hash = a.events[0].hash.clone(), "version 2: in the database, the column hash"),
        (|a| a.events[2].message_id.push('0'), "version 3: in the database, the column message_id"),
        (|a| a.entries[0].amount.amount += 1, "its ledger entries of kind fare add up to 1 cents"),
        (|a| drop(a.entries.remove(1)), "the ledger (fare) has nothing on driver:"),
        (
            |a| {
                a.entries[1].amount.amount -= 10;
                a.entries[2].amount.amount += 10;
            },
            "the ledger (fare) has -1050 cents on driver:",
        ),
        (|a| a.entries.truncate(3), "the ledger (capture) has nothing on passenger:"),
        (
            |a| a.payments[0].status = PaymentStatus::Pending,
            "the ledger (capture) has 1300 cents on cash:ledger, and must have nothing",
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
    for (wrong, told) in cases {
        let mut account = account();
        wrong(&mut account);
        let found = books(&account);
        assert!(found.contains(told), "{told}: {found}");
        assert!(found.lines().all(|line| line.starts_with("ride 00000000-0000-0000-0000-000000000001")), "{found}");
    }
}

/// Versions as they stand in the stream from sequence 1 on (a letter in place of the digit is another event), and the tables
/// with versions 1 to `kept`.
fn suspect(stream: &str, kept: u32) -> Suspect {
    let version = |c: char| c.to_digit(10).unwrap_or_else(|| c as u32 - 'a' as u32 + 1);
    let copy = |(n, c): (usize, char)| {
        let other = u128::from(c.is_alphabetic()) * 1_000;
        Copy { sequence: n as u64 + 1, version: version(c), digest: u128::from(version(c)) + other }
    };
    Suspect {
        stream: stream.chars().enumerate().map(copy).collect(),
        kept: (1..=kept).map(|v| Kept { version: v, digest: u128::from(v), occurred_at: at(i64::from(v)) }).collect(),
    }
}

#[test]
fn suspects_are_judged_version_by_version() {
    for (stream, kept, wanted) in [
        ("1234", 4, vec![]),
        ("134", 4, vec![(2, Verdict::Lost)]),
        ("12234", 4, vec![(2, Verdict::Repeated(vec![2, 3]))]),
        ("1b34", 4, vec![(2, Verdict::Another(2))]),
        ("12345", 4, vec![(5, Verdict::Unknown(5))]),
        ("", 2, vec![(1, Verdict::Lost), (2, Verdict::Lost)]),
    ] {
        assert_eq!(suspect(stream, kept).verdicts(), wanted, "{stream}");
    }
}

#[test]
fn a_plan_makes_every_stream_whole_and_in_order() {
    for (stream, kept, publish, delete) in [
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
        let plan = plan(&suspect(stream, kept)).unwrap();
        let written = |numbers: Vec<u64>| numbers.iter().map(u64::to_string).collect::<String>();
        let found = (written(plan.publish.iter().map(|v| u64::from(*v)).collect()), written(plan.delete.clone()));
        assert_eq!(found, (publish.to_owned(), delete.to_owned()), "{stream}");
        // What it makes of the stream is the tables' order.
        let kept_back = stream.chars().enumerate().filter(|(n, _)| !plan.delete.contains(&(*n as u64 + 1)));
        let made: String = kept_back.map(|(_, c)| c).chain(publish.chars()).collect();
        assert_eq!(made, "1234", "{stream}");
    }
    for (stream, kept) in [("1b34", 4), ("12345", 4), ("a", 0)] {
        assert_eq!(plan(&suspect(stream, kept)), None, "{stream} is for a person");
    }
}
