//! Whether the events of one user arrive as the contract promises: `seq` without gaps, resumed after `last_seq`, no event under
//! two numbers. Pure.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::frame::Event;

/// The most events that are stored, to compare repeats with.
const EVENTS_MAX: usize = 512;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    New,
    /// Received before under the same `seq`; has no effect.
    Repeated,
}

#[derive(Debug, Default)]
pub(crate) struct MailboxChecker {
    last_seq: Option<u64>,
    /// No event has arrived since the resume.
    just_resumed: bool,
    /// Oldest first.
    received: VecDeque<Received>,
}

#[derive(Debug)]
struct Received {
    seq: u64,
    digest: u64,
    event_id: String,
}

impl MailboxChecker {
    /// The `last_seq` for the next connection.
    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq.unwrap_or(0)
    }

    /// A connection with [`Self::last_seq`] was opened; `newest` is the `last_seq` of its welcome.
    pub(crate) fn resumed(&mut self, newest: u64) {
        self.just_resumed = true;
        // If not empty, the mailbox is of an account from an earlier run: it begins at its oldest event, whichever that is.
        if self.last_seq.is_none() && newest == 0 {
            self.last_seq = Some(0);
        }
    }

    /// Returns also what is wrong with the event.
    pub(crate) fn receive(&mut self, event: &Event) -> (Delivery, Option<String>) {
        let just_resumed = std::mem::take(&mut self.just_resumed);
        let digest = digest(event);
        let Some(last_seq) = self.last_seq else {
            self.store(event, digest);
            return (Delivery::New, None);
        };
        if event.seq <= last_seq {
            let before = self.received.iter().find(|received| received.seq == event.seq);
            let problem = if before.is_some_and(|received| received.digest != digest) {
                Some(format!("seq {} again with another content, {} {}", event.seq, event.kind, event.event_id))
            } else if just_resumed {
                Some(format!("resumed at seq {} after last_seq {last_seq}", event.seq))
            } else {
                None
            };
            return (Delivery::Repeated, problem);
        }
        let problem = if event.seq != last_seq + 1 {
            let how = if just_resumed { "resumed" } else { "continued" };
            Some(format!("{how} at seq {} after {last_seq}: {} missing", event.seq, event.seq - last_seq - 1))
        } else {
            let before = self.received.iter().find(|received| received.event_id == event.event_id);
            before.map(|received| {
                format!("{} {} twice, as seq {} and {}", event.kind, event.event_id, received.seq, event.seq)
            })
        };
        self.store(event, digest);
        (Delivery::New, problem)
    }

    fn store(&mut self, event: &Event, digest: u64) {
        self.last_seq = Some(event.seq);
        if self.received.len() >= EVENTS_MAX {
            self.received.pop_front();
        }
        self.received.push_back(Received { seq: event.seq, digest, event_id: event.event_id.clone() });
    }
}

fn digest(event: &Event) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut data = event.data.clone();
    if let Some(fields) = data.as_object_mut() {
        // How much time is left, and who the other one is, follow from the moment of sending.
        for of_now in ["expires_in_s", "driver", "passenger"] {
            fields.remove(of_now);
        }
    }
    (&event.kind, &event.event_id, data.to_string()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(seq: u64, id: &str) -> Event {
        Event { kind: "match.found".into(), seq, event_id: id.into(), data: json!({"match_id": id}) }
    }

    fn new_mailbox() -> MailboxChecker {
        let mut mailbox = MailboxChecker::default();
        mailbox.resumed(0);
        mailbox
    }

    #[test]
    fn events_in_order_are_new_and_correct() {
        let mut mailbox = new_mailbox();
        assert_eq!(mailbox.receive(&event(1, "a")), (Delivery::New, None));
        assert_eq!(mailbox.receive(&event(2, "b")), (Delivery::New, None));
        mailbox.resumed(2);
        assert_eq!(mailbox.receive(&event(3, "c")), (Delivery::New, None));
        assert_eq!(mailbox.last_seq(), 3);
    }

    #[test]
    fn a_gap_is_found_at_the_start_in_the_middle_and_after_a_resume() {
        assert!(new_mailbox().receive(&event(2, "a")).1.unwrap().contains("1 missing"));
        let mut mailbox = new_mailbox();
        mailbox.receive(&event(1, "a"));
        assert!(mailbox.receive(&event(4, "b")).1.unwrap().contains("2 missing"));
        mailbox.resumed(9);
        assert!(mailbox.receive(&event(6, "c")).1.unwrap().contains("resumed at seq 6 after 4"));
    }

    #[test]
    fn a_repeat_is_allowed_unless_it_differs_or_follows_a_resume() {
        let mut mailbox = new_mailbox();
        mailbox.receive(&event(1, "a"));
        mailbox.receive(&event(2, "b"));
        assert_eq!(mailbox.receive(&event(2, "b")), (Delivery::Repeated, None));
        assert!(mailbox.receive(&event(2, "x")).1.unwrap().contains("another content"));
        mailbox.resumed(2);
        assert!(mailbox.receive(&event(2, "b")).1.unwrap().contains("after last_seq 2"));
    }

    #[test]
    fn one_event_under_two_numbers_is_found() {
        let mut mailbox = new_mailbox();
        mailbox.receive(&event(1, "a"));
        assert!(mailbox.receive(&event(2, "a")).1.unwrap().contains("twice, as seq 1 and 2"));
    }

    #[test]
    fn the_mailbox_of_an_older_account_begins_at_its_first_event() {
        let mut mailbox = MailboxChecker::default();
        mailbox.resumed(17);
        assert_eq!(mailbox.receive(&event(12, "a")), (Delivery::New, None));
        assert!(mailbox.receive(&event(14, "b")).1.is_some());
    }
}
