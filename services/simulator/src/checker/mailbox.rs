//! Whether the events of one user come as the contract promises: `seq` without gaps, resumed where it was left, nothing
//! twice. Pure; it owns the last `seq` that was seen.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::frame::Event;

/// So many events are remembered, to tell a repeat from a change.
const REMEMBERED: usize = 512;

/// What an event is to its reader.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    New,
    /// Sent before under the same `seq`; has no effect.
    Repeat,
}

/// One user's events.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    last: Option<u64>,
    resumed: bool,
    recent: VecDeque<Remembered>,
}

#[derive(Debug)]
struct Remembered {
    seq: u64,
    content: u64,
    event_id: String,
}

impl Mailbox {
    /// What to ask for in `last_seq` on the next connection.
    pub(crate) fn last_seq(&self) -> u64 {
        self.last.unwrap_or(0)
    }

    /// A connection that asked for what comes after [`Self::last_seq`] was welcomed; `newest` is the welcome's
    /// `last_seq`.
    pub(crate) fn welcomed(&mut self, newest: u64) {
        self.resumed = true;
        // A mailbox with a past (an account from an earlier run) begins where its oldest kept event is.
        if self.last.is_none() && newest == 0 {
            self.last = Some(0);
        }
    }

    /// Takes the next event in.
    pub(crate) fn event(&mut self, event: &Event) -> (Verdict, Option<String>) {
        let first_after_resume = std::mem::take(&mut self.resumed);
        let content = content(event);
        let Some(last) = self.last else {
            self.remember(event, content);
            return (Verdict::New, None);
        };
        if event.seq <= last {
            let known = self.recent.iter().find(|known| known.seq == event.seq);
            let problem = if known.is_some_and(|known| known.content != content) {
                Some(format!("seq {} again with another content, {} {}", event.seq, event.kind, event.event_id))
            } else if first_after_resume {
                Some(format!("resumed at seq {} after last_seq {last}", event.seq))
            } else {
                None
            };
            return (Verdict::Repeat, problem);
        }
        let twice = self.recent.iter().find(|known| known.event_id == event.event_id);
        let problem = if event.seq != last + 1 {
            let how = if first_after_resume { "resumed" } else { "continued" };
            Some(format!("{how} at seq {} after {last}: {} missing", event.seq, event.seq - last - 1))
        } else {
            twice
                .map(|known| format!("{} {} twice, as seq {} and {}", event.kind, event.event_id, known.seq, event.seq))
        };
        self.remember(event, content);
        (Verdict::New, problem)
    }

    fn remember(&mut self, event: &Event, content: u64) {
        self.last = Some(event.seq);
        if self.recent.len() >= REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(Remembered { seq: event.seq, content, event_id: event.event_id.clone() });
    }
}

fn content(event: &Event) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&event.kind, &event.event_id, event.data.to_string()).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(seq: u64, id: &str) -> Event {
        Event { kind: "match.found".into(), seq, event_id: id.into(), data: json!({"match_id": id}) }
    }

    fn fresh() -> Mailbox {
        let mut mailbox = Mailbox::default();
        mailbox.welcomed(0);
        mailbox
    }

    #[test]
    fn events_in_order_are_new_and_fine() {
        let mut mailbox = fresh();
        assert_eq!(mailbox.event(&event(1, "a")), (Verdict::New, None));
        assert_eq!(mailbox.event(&event(2, "b")), (Verdict::New, None));
        mailbox.welcomed(2);
        assert_eq!(mailbox.event(&event(3, "c")), (Verdict::New, None));
        assert_eq!(mailbox.last_seq(), 3);
    }

    #[test]
    fn a_gap_is_found_at_the_start_in_the_middle_and_after_a_resume() {
        assert!(fresh().event(&event(2, "a")).1.unwrap().contains("1 missing"));
        let mut mailbox = fresh();
        mailbox.event(&event(1, "a"));
        assert!(mailbox.event(&event(4, "b")).1.unwrap().contains("2 missing"));
        mailbox.welcomed(9);
        assert!(mailbox.event(&event(6, "c")).1.unwrap().contains("resumed at seq 6 after 4"));
    }

    #[test]
    fn repeats_are_harmless_unless_they_differ_or_begin_a_resume() {
        let mut mailbox = fresh();
        mailbox.event(&event(1, "a"));
        mailbox.event(&event(2, "b"));
        assert_eq!(mailbox.event(&event(2, "b")), (Verdict::Repeat, None));
        assert!(mailbox.event(&event(2, "x")).1.unwrap().contains("another content"));
        mailbox.welcomed(2);
        assert!(mailbox.event(&event(2, "b")).1.unwrap().contains("after last_seq 2"));
    }

    #[test]
    fn one_event_under_two_numbers_is_found() {
        let mut mailbox = fresh();
        mailbox.event(&event(1, "a"));
        assert!(mailbox.event(&event(2, "a")).1.unwrap().contains("twice, as seq 1 and 2"));
    }

    #[test]
    fn an_older_account_begins_where_it_is() {
        let mut mailbox = Mailbox::default();
        mailbox.welcomed(17);
        assert_eq!(mailbox.event(&event(12, "a")), (Verdict::New, None));
        assert!(mailbox.event(&event(14, "b")).1.is_some());
    }
}
