//! The invariants of a platform of real processes, from its rows and streams as an outsider reads them.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use simulator::Observation;
use streams::bus::StoredMessage;
use streams::topology::TABLE;
use testing::invariants::{AckedCommand, Event, History, Mailbox, MailboxEntry, fee_or_fare, text};

use crate::records::Records;

/// Everything that is wrong.
pub(crate) fn all(records: &Records, observations: &[Observation]) -> Vec<String> {
    let bodies: Vec<Value> = records.events.iter().map(|row| serde_json::from_str(&row.body).unwrap()).collect();
    let history = history(records, &bodies);
    let mut wrong = history.lifecycles();
    wrong.extend(rides(records, &history));
    wrong.extend(ride_stream(records));
    wrong.extend(history.one_ride_at_a_time());
    // Not `one_offer_at_a_time`: after a take-over, match can offer a driver again while the acceptance of the former offer is
    // still on its way. rides supersedes one of the two. The simulation checks the rule where no such lag is.
    wrong.extend(history.one_winner());
    wrong.extend(history.ended_searches());
    wrong.extend(history.fares());
    wrong.extend(ledger(records, &history));
    wrong.extend(outbox(records));
    let dead: Vec<_> = records.dead.iter().map(DeadLetter::of).collect();
    let letters = dead.iter().map(|letter| (letter.consumer, letter.message_id)).collect();
    wrong.extend(history.inboxes(&records.inbox, &letters));
    wrong.extend(dead_letters_once(&dead));
    wrong.extend(history.mailboxes(&mailboxes(records, observations)));
    let acked_seq = |user: &str| records.mailbox_heads.get(user).map_or(0, |(_, acked)| *acked);
    wrong.extend(history.effects(acked_commands(observations), acked_seq));
    wrong
}

/// What was committed: outbox rows, and the event rows of rides, whose bodies are `bodies`.
fn history<'a>(records: &'a Records, bodies: &'a [Value]) -> History<'a> {
    let committed = records.outbox.iter();
    let events = committed.map(|row| Event { id: &row.message_id, subject: &row.subject, body: &row.body }).collect();
    let mut rides: BTreeMap<&str, Vec<Event<'_>>> = BTreeMap::new();
    for (row, body) in records.events.iter().zip(bodies) {
        let subject = row.message_id.split('-').next().unwrap_or_default();
        rides.entry(&row.ride_id).or_default().push(Event { id: &row.message_id, subject, body });
    }
    History { events, rides }
}

/// The row of each ride is as its last event says, and no events are without a row.
fn rides(records: &Records, history: &History<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for ride in &records.rides {
        let events = history.rides.get(ride.ride_id.as_str()).map_or(&[][..], Vec::as_slice);
        let Some(last) = events.last().map(|event| event.body) else {
            wrong.push(format!("ride {}: a row without events", ride.ride_id));
            continue;
        };
        let row = [&ride.status, &ride.last_hash, &ride.match_id, &ride.driver_id, &ride.passenger_id];
        let fields = ["status", "hash", "match_id", "driver_id", "passenger_id"].map(|field| text(last, field));
        if ride.version != events.len() as i64 || row != fields {
            wrong.push(format!("ride {}: its row says {ride:?}, its last event {last}", ride.ride_id));
        }
    }
    for row in &records.events {
        let place = history.rides[row.ride_id.as_str()].iter().position(|event| event.id == row.message_id);
        if place.is_none_or(|place| place as i64 + 1 != row.version) {
            wrong.push(format!("ride {}: the row of {} says version {}", row.ride_id, row.message_id, row.version));
        }
    }
    let known: BTreeSet<&str> = records.rides.iter().map(|ride| ride.ride_id.as_str()).collect();
    let unknown = history.rides.keys().filter(|ride| !known.contains(*ride));
    wrong.extend(unknown.map(|ride| format!("ride {ride}: events without a row")));
    wrong
}

/// RIDE_STREAM has every event of every ride once, byte for byte, and in the order of each ride's versions.
fn ride_stream(records: &Records) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut first: BTreeMap<&str, (usize, &[u8])> = BTreeMap::new();
    for (place, stored) in records.ride_stream.iter().enumerate() {
        let id = stored.headers.find("Nats-Msg-Id").unwrap_or_default();
        match first.get(id) {
            None => {
                first.insert(id, (place, &stored.payload));
            }
            Some(_) => wrong.push(format!("RIDE_STREAM: {id} is stored twice, again as {}", stored.sequence)),
        }
    }
    let mut before: Option<(&str, usize)> = None;
    for row in &records.events {
        match first.remove(row.message_id.as_str()) {
            None => wrong.push(format!("RIDE_STREAM: {} is missing", row.message_id)),
            Some((_, body)) if body != row.body.as_bytes() => {
                wrong.push(format!("RIDE_STREAM: {} has another body than the database", row.message_id));
            }
            Some((place, _)) => {
                if before.is_some_and(|(ride, earlier)| ride == row.ride_id && earlier > place) {
                    wrong.push(format!("RIDE_STREAM: {} comes before the version before it", row.message_id));
                }
                before = Some((&row.ride_id, place));
            }
        }
    }
    wrong.extend(first.keys().map(|id| format!("RIDE_STREAM: {id} is in no ride")));
    wrong
}

/// Every transaction adds up to 0, each kind happens once for a ride, and what is owed is debited and captured.
fn ledger(records: &Records, history: &History<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
    let mut kinds: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for entry in &records.ledger {
        *sums.entry(&entry.transaction_id).or_default() += entry.amount;
        kinds.entry((&entry.ride_id, &entry.kind)).or_default().insert(&entry.transaction_id);
    }
    for (transaction, sum) in sums.iter().filter(|(_, sum)| **sum != 0) {
        wrong.push(format!("ledger: transaction {transaction} adds up to {sum}"));
    }
    for ((ride, kind), transactions) in kinds.iter().filter(|(_, transactions)| transactions.len() > 1) {
        wrong.push(format!("ride {ride}: {} transactions of kind {kind}", transactions.len()));
    }
    let mut payments: BTreeMap<&str, Vec<(i64, bool)>> = BTreeMap::new();
    for (ride, amount, status) in &records.payments {
        payments.entry(ride).or_default().push((*amount, status == "captured"));
    }
    wrong.extend(history.payments(&payments));
    for (ride, events) in &history.rides {
        let Some(last) = events.last() else { continue };
        let owed = fee_or_fare(last.body);
        let kind = if text(last.body, "status") == "completed" { "fare" } else { "cancellation" };
        for (kind, account) in [(kind, "passenger:"), ("capture", "cash:")] {
            let entries = records.ledger.iter().filter(|entry| entry.ride_id == *ride && entry.kind == kind);
            let debited: i64 =
                entries.filter(|entry| entry.account.starts_with(account)).map(|entry| entry.amount).sum();
            if debited != owed {
                wrong.push(format!("ride {ride}: {owed} owed, {debited} debited to {account} by the {kind}"));
            }
        }
    }
    wrong
}

/// Every committed event was published, under an id of its own, and by a service that may publish it.
fn outbox(records: &Records) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut ids = BTreeSet::new();
    for row in &records.outbox {
        if !row.published {
            wrong.push(format!("{}: {} was never published", row.service, row.message_id));
        }
        if !ids.insert(&row.message_id) {
            wrong.push(format!("{}: two events have the id {}", row.service, row.message_id));
        }
        let subject = TABLE.iter().find(|of| of.subject.as_str() == row.subject).unwrap();
        if !subject.writers.iter().any(|writer| writer.name() == row.service) {
            wrong.push(format!("{}: published {}", row.service, row.message_id));
        }
    }
    wrong
}

/// Mailbox rows, and what clients received of rows that are acked and gone.
fn mailboxes<'a>(records: &'a Records, observations: &'a [Observation]) -> BTreeMap<String, Mailbox<'a>> {
    let observed = observations.iter().filter_map(|observation| match observation {
        Observation::Event { user_id, seq, event_id, .. } => Some((user_id.as_str(), *seq, event_id.as_str())),
        Observation::Acked { .. } => None,
    });
    let rows = records.mailboxes.iter().map(|(user, seq, event)| (user.as_str(), *seq, event.as_str()));
    // A row that a client has received is there twice.
    let entries: BTreeSet<_> = rows.chain(observed).collect();
    let mut mailboxes: BTreeMap<String, Mailbox<'_>> = BTreeMap::new();
    for (user, (last_seq, _)) in &records.mailbox_heads {
        mailboxes.entry(user.clone()).or_default().last_seq = *last_seq;
    }
    for (user, seq, event_id) in entries {
        let mailbox = mailboxes.entry(user.to_owned()).or_default();
        mailbox.entries.push(MailboxEntry { seq, event_id, body: None });
    }
    mailboxes
}

fn acked_commands(observations: &[Observation]) -> impl Iterator<Item = AckedCommand<'_>> {
    observations.iter().filter_map(|observation| match observation {
        Observation::Acked { user_id, kind, command_data, ack_data } => {
            Some(AckedCommand { user: user_id, kind, data: command_data, answer: ack_data })
        }
        Observation::Event { .. } => None,
    })
}

/// What the headers of a dead letter say of its message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct DeadLetter<'a> {
    consumer: &'a str,
    stream: &'a str,
    sequence: &'a str,
    message_id: &'a str,
}

impl<'a> DeadLetter<'a> {
    fn of(stored: &'a StoredMessage) -> Self {
        let header = |name| stored.headers.find(name).unwrap_or_default();
        Self {
            consumer: header("Dead-Letter-Consumer"),
            stream: header("Dead-Letter-Stream"),
            sequence: header("Dead-Letter-Sequence"),
            message_id: header("Dead-Letter-Message-Id"),
        }
    }
}

/// At most one dead letter for a message and consumer.
fn dead_letters_once(letters: &[DeadLetter<'_>]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let again = letters.iter().filter(|letter| !seen.insert((letter.consumer, letter.stream, letter.sequence)));
    again.map(|l| format!("{}: two dead letters for {} {}", l.consumer, l.stream, l.sequence)).collect()
}

/// The processes of match wrote in the order in which they held the lease: one that was stopped and resumed wrote nothing under
/// its old epoch. `leases` are epoch and holder, as far as they were observed.
pub(crate) fn fencing(records: &Records, leases: &[(i64, String)]) -> Vec<String> {
    let mut holders: Vec<Option<&str>> = Vec::new();
    let mut next = 1;
    for (epoch, holder) in leases {
        // The holder of an epoch that was not observed may be anybody.
        holders.extend((next..*epoch).map(|_| None));
        holders.push(Some(holder));
        next = epoch + 1;
    }
    let of_match = records.outbox.iter().filter(|row| row.service == "match");
    let mut writers: Vec<&str> = of_match.map(|row| row.pod.as_str()).collect();
    writers.dedup();
    let mut order = holders.iter();
    for writer in &writers {
        if !order.any(|holder| holder.is_none_or(|holder| holder == *writer)) {
            return vec![format!("match: {writer} wrote under an old epoch; writers {writers:?}, leases {leases:?}")];
        }
    }
    Vec::new()
}
