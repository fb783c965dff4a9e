//! Mailboxes and inboxes: who must have received what.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use streams::Service;
use streams::topology::{TABLE, durable};

use super::history::{Event, History, text};

/// An event in a user's mailbox, or as a client received it.
#[derive(Debug, Clone, Copy)]
pub struct MailboxEntry<'a> {
    pub seq: u64,
    pub event_id: &'a str,
    /// The body that the client received, without the PIN of a pickup.
    pub body: Option<&'a Value>,
}

/// All that a user's mailbox held, whether or not it is acked and gone by now.
#[derive(Debug, Default)]
pub struct Mailbox<'a> {
    /// The highest `seq` given out.
    pub last_seq: u64,
    pub entries: Vec<MailboxEntry<'a>>,
}

/// Whether an id was given to a message that came without one: stream and sequence, in an inbox also the time of storing.
fn is_foreign(id: &str) -> bool {
    id.split_once('-').is_some_and(|(stream, place)| {
        let sequence = place.split_once('@').map_or(place, |(sequence, _)| sequence);
        stream.ends_with("_STREAM") && sequence.parse::<u64>().is_ok()
    })
}

/// Whether a service handles an event without a row in its inbox, because handling it twice has no second effect: positions,
/// whose rows have keys of their own; location's set of free drivers, in memory; the distance of a ride that goes on.
fn needs_no_inbox(reader: Service, event: &Event<'_>) -> bool {
    match event.subject {
        "location.update" => true,
        "user.beacon" => reader == Service::Location,
        "location.aggregate" => reader == Service::Rides && event.body["final"] != true,
        _ => false,
    }
}

/// An event as its people receive it: the terms of an offer are for services.
fn client_body(published: &Value) -> Value {
    let mut body = published.clone();
    if let Some(fields) = body.as_object_mut().filter(|fields| !fields.contains_key("ride_id")) {
        fields.remove("terms");
    }
    body
}

/// Whether an entry says that one of the user's searches, whose events are `due`, is near its end. No stream has it.
fn is_near_end<'a>(id: &str, mut due: impl Iterator<Item = &'a str>) -> bool {
    let search = id.rsplit_once('-').map(|(search, _)| search).filter(|search| search.starts_with("user.finder-"));
    search.is_some_and(|search| due.any(|event| event.starts_with(search)))
}

/// The match of a `match.rejected`.
fn rejection<'a>(id: &str, body: &'a Value) -> Option<&'a str> {
    id.starts_with("match.rejected-").then(|| text(body, "match_id"))
}

impl<'a> History<'a> {
    /// The users who receive an event.
    fn recipients(&self, event: &Event<'a>) -> Vec<&'a str> {
        match event.subject.split_once('.') {
            Some(("user", _)) => vec![text(event.body, "user_id")],
            Some(("match" | "ride", _)) => vec![text(event.body, "driver_id"), text(event.body, "passenger_id")],
            Some((_, "aggregate")) => {
                let ride = self.rides.get(text(event.body, "ride_id")).and_then(|events| events.first());
                ride.map(|first| text(first.body, "passenger_id")).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Each mailbox has no gap, no event twice, all that concerns its user, with the published body, and nothing else. Of an offer
    /// it has one `match.rejected`, or a ride: several services may end an offer at once, and users decides which of them did.
    pub fn mailboxes(&self, mailboxes: &BTreeMap<String, Mailbox<'_>>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut due: BTreeMap<&str, BTreeMap<&str, &Value>> = BTreeMap::new();
        for event in &self.events {
            for user in self.recipients(event) {
                due.entry(user).or_default().insert(event.id, event.body);
            }
        }
        let none = (Mailbox::default(), BTreeMap::new());
        let ridden = self.ridden();
        let users: BTreeSet<&str> = due.keys().copied().chain(mailboxes.keys().map(String::as_str)).collect();
        for user in users {
            let mut say = |what: String| wrong.push(format!("mailbox of {user}: {what}"));
            let (mailbox, due) = (mailboxes.get(user).unwrap_or(&none.0), due.get(user).unwrap_or(&none.1));
            let mut by_seq: BTreeMap<u64, &str> = BTreeMap::new();
            let mut received = BTreeSet::new();
            let mut rejected: BTreeMap<&str, &str> = BTreeMap::new();
            for entry in &mailbox.entries {
                let (seq, id) = (entry.seq, entry.event_id);
                if let Some(before) = by_seq.insert(seq, id).filter(|before| *before != id) {
                    say(format!("seq {seq} is {id} and was {before}"));
                }
                if !received.insert(id) {
                    say(format!("{id} twice, again as seq {seq}"));
                }
                if let Some(match_id) = due.get(id).and_then(|body| rejection(id, body)) {
                    if let Some(before) = rejected.insert(match_id, id).filter(|before| *before != id) {
                        say(format!("match {match_id} was rejected twice, {before} and {id}"));
                    }
                    if ridden.contains_key(match_id) {
                        say(format!("match {match_id} was rejected, {id}, and became a ride"));
                    }
                }
                match (due.get(id), entry.body) {
                    (None, _) if !is_foreign(id) && !is_near_end(id, due.keys().copied()) => {
                        say(format!("seq {seq}, {id}, is not theirs"))
                    }
                    (Some(published), Some(body)) if client_body(published) != *body => {
                        say(format!("{id} has another body: {body}"))
                    }
                    _ => {}
                }
            }
            for seq in (1..=mailbox.last_seq).filter(|seq| !by_seq.contains_key(seq)) {
                say(format!("seq {seq} of {} is nowhere", mailbox.last_seq));
            }
            for seq in by_seq.keys().filter(|seq| **seq == 0 || **seq > mailbox.last_seq) {
                say(format!("seq {seq} is beyond {}", mailbox.last_seq));
            }
            for (id, body) in due.iter().filter(|(id, _)| !received.contains(*id)) {
                let is_decided = |of: &str| rejected.contains_key(of) || ridden.contains_key(of);
                if !rejection(id, body).is_some_and(is_decided) {
                    say(format!("{id} is missing"));
                }
            }
        }
        wrong
    }

    /// Every consumer has handled each event of its subject, which its inbox shows, or dead-lettered it; and no inbox has an
    /// event that nobody published, or that is not its consumer's. Both sets are of consumer and message id.
    pub fn inboxes(&self, inbox: &BTreeSet<(String, String)>, dead: &BTreeSet<(&str, &str)>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut subjects: BTreeMap<&str, &str> = BTreeMap::new();
        for event in &self.events {
            subjects.insert(event.id, event.subject);
            let readers = TABLE.iter().filter(|row| row.subject.as_str() == event.subject);
            for (row, reader) in readers.flat_map(|row| row.readers.iter().map(move |reader| (row, *reader))) {
                let consumer = durable(row.subject, reader);
                if !needs_no_inbox(reader, event)
                    && !dead.contains(&(consumer.as_str(), event.id))
                    && !inbox.contains(&(consumer.clone(), event.id.to_owned()))
                {
                    wrong.push(format!("{consumer}: {} was neither handled nor dead-lettered", event.id));
                }
            }
        }
        // Under `operators` are the ids of acts, which are no messages.
        for (consumer, id) in inbox.iter().filter(|(consumer, _)| consumer != "operators") {
            match subjects.get(id.as_str()) {
                None if !is_foreign(id) => {
                    wrong.push(format!("{consumer}: {id} is in its inbox, and nobody published it"))
                }
                Some(subject) if !consumer.starts_with(&subject.replace('.', "_")) => {
                    wrong.push(format!("{consumer}: {id} is in its inbox, and is not for it"));
                }
                _ => {}
            }
        }
        wrong
    }
}
