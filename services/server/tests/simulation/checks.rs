//! What a simulation must come to: when everything is at rest, and that the invariants hold of what clients and streams saw.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use platform::Store;
use rides::ledger::rows::balance;
use rides::payment::rows::payments_of;
use rides::{Tables, ledger, payment};
use serde_json::Value;
use streams::bus::{ReplayStart, StoredMessage};
use streams::topology::{Retention, Topology};
use streams::{Bus, Currency, RideId};
use testing::invariants::{AckedCommand, Event, History, Mailbox, MailboxEntry, fee_or_fare, text};

use crate::inbox;
use crate::scene::{Received, Scene};

const USD: Currency = Currency::USD;

/// What is not at rest: processes that are unhealthy, messages and rows that wait, rides that have not ended.
pub(crate) async fn unrest(scene: &Scene) -> Vec<String> {
    let mut found: Vec<String> = scene.processes.iter().flat_map(|process| process.unhealthy()).collect();
    if !found.is_empty() {
        return found;
    }
    let (bus, topology) = (Bus::Memory(scene.bus.clone()), Topology::rideshare().with_sweeper());
    for consumer in &topology.consumers {
        let info = bus.consumer_info(&consumer.stream, &consumer.durable).await.unwrap();
        if info.pending + info.ack_pending > 0 {
            found.push(format!("{}: {} pending, {} not acked", consumer.durable, info.pending, info.ack_pending));
        }
    }
    for stream in topology.streams.iter().filter(|stream| stream.retention != Retention::Limits) {
        let info = bus.stream_info(&stream.name).await.unwrap();
        if info.messages > 0 {
            found.push(format!("{} holds {} messages", stream.name, info.messages));
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
    if !scene.configs.matching.partition.is_one() {
        found.extend(
            matching::unrest(&stores.matching, scene.configs.matching.partition, scene.world.now()).await.unwrap(),
        );
    }
    found.extend(live_rides(scene).into_iter().map(|ride| format!("ride {ride} has not ended")));
    found
}

fn live_rides(scene: &Scene) -> BTreeSet<String> {
    let log = scene.log();
    let of = |subjects: &'static [&str]| {
        let events = log.published.iter().filter(move |event| subjects.contains(&event.subject.as_str()));
        events.map(|event| text(&event.body, "ride_id").to_owned())
    };
    let over: BTreeSet<String> = of(&["ride.completed", "ride.cancelled"]).collect();
    of(&["ride.pickup"]).filter(|ride| !over.contains(ride)).collect()
}

/// All that is wrong once everything is at rest.
pub(crate) async fn all(scene: &Scene) -> Vec<String> {
    let stored = ride_stream(scene).await;
    let (published, acked, received) = {
        let log = scene.log();
        (log.published.clone(), log.acked.clone(), log.received.clone())
    };
    let mut history = History { events: Vec::new(), rides: BTreeMap::new() };
    history.events.extend(published.iter().map(|event| Event {
        id: &event.id,
        subject: &event.subject,
        body: &event.body,
    }));
    for (message, body) in &stored {
        let event = Event { id: "", subject: &message.subject, body };
        history.rides.entry(text(body, "ride_id")).or_default().push(event);
    }
    let mut wrong = history.lifecycles();
    wrong.extend(history.one_ride_at_a_time());
    wrong.extend(history.one_offer_at_a_time());
    wrong.extend(history.one_winner());
    wrong.extend(history.ended_searches());
    wrong.extend(history.fares());
    wrong.extend(money(&history, &scene.stores.rides).await);
    let commands = acked.iter().map(|acked| AckedCommand {
        user: &acked.user,
        kind: acked.kind,
        data: &acked.data,
        answer: &acked.answer,
    });
    // Where a user's cursor stands, no client here can know.
    wrong.extend(history.effects(commands, |_| u64::MAX));
    wrong.extend(mailboxes(&history, &received));
    wrong.extend(history.inboxes(&inbox::all(scene).await, &BTreeSet::new()));
    wrong.extend(inbox::dead_letters(scene).await);
    wrong
}

async fn ride_stream(scene: &Scene) -> Vec<(StoredMessage, Value)> {
    let bus = Bus::Memory(scene.bus.clone());
    let mut replay = bus.replay("RIDE_STREAM", None, ReplayStart::Sequence(1)).await.unwrap();
    let mut events = Vec::new();
    while let Ok(Some(stored)) = replay.next(Duration::ZERO).await {
        let body = serde_json::from_slice(&stored.payload).unwrap();
        events.push((stored, body));
    }
    events
}

/// Payments and balances are what the rides come to.
async fn money(history: &History<'_>, rides: &Store<Tables>) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut payments, mut turnover) = (BTreeMap::new(), 0);
    let (mut drivers, mut passengers) = (BTreeSet::new(), BTreeSet::new());
    for (ride, events) in &history.rides {
        let Some(last) = events.last() else { continue };
        turnover += fee_or_fare(last.body);
        drivers.insert(text(last.body, "driver_id"));
        passengers.insert(text(last.body, "passenger_id"));
        let payment =
            payments_of(&mut rides.begin().await.unwrap(), &[ride.parse::<RideId>().unwrap()]).await.unwrap().pop();
        let payment = payment.map(|p| (p.amount.amount, p.status == payment::PaymentStatus::Captured));
        payments.insert(*ride, payment.into_iter().collect());
    }
    wrong.extend(history.payments(&payments));
    let mut earned = balance(&mut rides.begin().await.unwrap(), ledger::REVENUE, USD).await.unwrap();
    for driver in drivers {
        earned += balance(&mut rides.begin().await.unwrap(), &format!("driver:{driver}"), USD).await.unwrap();
    }
    for passenger in passengers {
        let owed = balance(&mut rides.begin().await.unwrap(), &format!("passenger:{passenger}"), USD).await.unwrap();
        if owed != 0 {
            wrong.push(format!("{passenger} owes {owed} although all is captured"));
        }
    }
    let cash = balance(&mut rides.begin().await.unwrap(), "cash:ledger", USD).await.unwrap();
    if cash != turnover || earned != -cash {
        wrong.push(format!("the rides come to {turnover}, the cash to {cash}, what is earned to {}", -earned));
    }
    wrong
}

fn mailboxes(history: &History<'_>, received: &BTreeMap<String, Vec<Received>>) -> Vec<String> {
    let mut published: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (user, events) in received {
        let bodies = events.iter().map(|event| {
            let mut body = event.body.clone();
            let of_passenger = text(&body, "passenger_id") == user;
            // What is joined to the copies of the two parties.
            let joined: &[&str] = match event.subject.as_str() {
                "ride.pickup" if of_passenger => &["pin", "driver"],
                "match.found" => &["driver", "expires_in_s"],
                subject if subject == "match.accepted" || subject.starts_with("ride.") => &["driver", "passenger"],
                _ => &[],
            };
            if let Some(fields) = body.as_object_mut() {
                joined.iter().for_each(|field| _ = fields.remove(*field));
            }
            body
        });
        published.insert(user, bodies.collect());
    }
    let mut mailboxes: BTreeMap<String, Mailbox<'_>> = BTreeMap::new();
    for (user, events) in received {
        let mailbox = mailboxes.entry(user.clone()).or_default();
        mailbox.last_seq = events.iter().map(|event| event.seq).max().unwrap_or(0);
        let bodies = &published[user.as_str()];
        mailbox.entries.extend(events.iter().zip(bodies).map(|(event, body)| MailboxEntry {
            seq: event.seq,
            event_id: &event.event_id,
            // The driver's copy of an offer has its places rounded.
            body: (event.subject != "match.found" || text(body, "passenger_id") == user).then_some(body),
        }));
    }
    history.mailboxes(&mailboxes)
}
