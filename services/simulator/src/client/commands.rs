//! The commands of one person: those without an answer yet, and the answers to recent ones, with which the answers to
//! repeats are compared. Pure: the time comes from outside.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::frame::text;

/// The most answers that are stored.
const ANSWERS_MAX: usize = 256;

#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) data: Value,
}

/// A command without an answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) command: Command,
    created_at: Instant,
    pub(super) first_sent_at: Option<Instant>,
    pub(super) attempts: u32,
    /// When it is to be sent, again or for the first time.
    pub(super) send_at: Instant,
}

#[derive(Debug)]
enum Answer {
    /// With the [`ids`] in the ack.
    Ack(String),
    Refusal,
}

#[derive(Debug)]
pub(super) struct CommandQueue {
    id_prefix: String,
    last_id: u64,
    /// Oldest first.
    pending: Vec<Pending>,
    /// By the command's id, oldest first.
    answers: VecDeque<(String, Answer)>,
}

impl CommandQueue {
    pub(super) fn new(id_prefix: String) -> Self {
        Self { id_prefix, last_id: 0, pending: Vec::new(), answers: VecDeque::new() }
    }

    /// Returns the new command's id.
    pub(super) fn push(&mut self, kind: &'static str, data: Value, now: Instant) -> String {
        self.last_id += 1;
        let id = format!("{}-{}", self.id_prefix, self.last_id);
        let command = Command { id: id.clone(), kind, data };
        self.pending.push(Pending { command, created_at: now, first_sent_at: None, attempts: 0, send_at: now });
        id
    }

    /// Forgets every command without an answer.
    pub(super) fn clear(&mut self) {
        self.pending.clear();
    }

    /// Removes the oldest command that has had no answer for `limit`.
    pub(super) fn remove_expired(&mut self, now: Instant, limit: Duration) -> Option<Command> {
        let place = self.pending.iter().position(|pending| now.duration_since(pending.created_at) >= limit)?;
        Some(self.pending.remove(place).command)
    }

    /// Every pending command is sent again: the connection is new.
    pub(super) fn send_all_at(&mut self, now: Instant) {
        self.pending.iter_mut().for_each(|pending| pending.send_at = now);
    }

    /// When the next command is to be sent.
    pub(super) fn next_send_at(&self) -> Option<Instant> {
        let sendable = self.pending.iter().enumerate().filter(|(place, _)| !must_wait(&self.pending, *place));
        sendable.map(|(_, pending)| pending.send_at).min()
    }

    /// The commands that are to be sent now.
    pub(super) fn due(&mut self, now: Instant) -> impl Iterator<Item = &mut Pending> {
        let due: Vec<bool> = (0..self.pending.len())
            .map(|place| self.pending[place].send_at <= now && !must_wait(&self.pending, place))
            .collect();
        self.pending.iter_mut().zip(due).filter_map(|(pending, due)| due.then_some(pending))
    }

    pub(super) fn pending_mut(&mut self, id: &str) -> Option<&mut Pending> {
        self.pending.iter_mut().find(|pending| pending.command.id == id)
    }

    /// Ends a pending command whose ack has this `data`. `None`: it is not pending.
    pub(super) fn ack(&mut self, id: &str, data: &Value) -> Option<Pending> {
        self.end(id, Answer::Ack(ids(data)))
    }

    /// Ends a pending command that was refused. `None`: it is not pending.
    pub(super) fn refuse(&mut self, id: &str) -> Option<Pending> {
        self.end(id, Answer::Refusal)
    }

    fn end(&mut self, id: &str, answer: Answer) -> Option<Pending> {
        let place = self.pending.iter().position(|pending| pending.command.id == id)?;
        if self.answers.len() >= ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back((id.to_owned(), answer));
        Some(self.pending.remove(place))
    }

    /// What is wrong with an ack of a command that is not pending: the answer to a repeat must name the same ids.
    pub(super) fn repeated_ack_problem(&self, id: &str, data: &Value) -> Option<String> {
        let ids = ids(data);
        match self.answer(id) {
            // A repeat of the end of a search that is over is acked without an id.
            Some(Answer::Ack(before)) if *before != ids && ids != NO_IDS => {
                Some(format!("repeat {id} was acked with {ids}, before with {before}"))
            }
            Some(_) => None,
            None => self.unknown_id_problem(id),
        }
    }

    /// What is wrong with a refusal of a command that is not pending: a repeat of an acked command must be acked again.
    pub(super) fn repeated_refusal_problem(&self, id: &str, code: &str, message: &str) -> Option<String> {
        match self.answer(id) {
            Some(Answer::Ack(_)) if code != "unavailable" => {
                Some(format!("repeat {id} of an acked command was refused: {code} {message}"))
            }
            Some(_) => None,
            None => self.unknown_id_problem(id),
        }
    }

    fn answer(&self, id: &str) -> Option<&Answer> {
        self.answers.iter().find(|(known, _)| known == id).map(|(_, answer)| answer)
    }

    /// An id of this person may be too old to be stored here; any other one was never sent.
    fn unknown_id_problem(&self, id: &str) -> Option<String> {
        (!id.starts_with(&self.id_prefix)).then(|| format!("an answer to {id}, which it never sent"))
    }
}

/// Whether a command must not be sent before an earlier one is answered. The platform recognises a repeated `finder.update` by
/// the search that is open. If the beginning and the end of a search were both sent twice, the repeat of the beginning could
/// come after the end and begin another search.
fn must_wait(pending: &[Pending], place: usize) -> bool {
    let is_search = |pending: &Pending| pending.command.kind == "finder.update";
    is_search(&pending[place]) && pending[..place].iter().any(is_search)
}

/// The [`ids`] of an ack without any.
const NO_IDS: &str = "//";

/// The ids in an ack: what the answer to a repeat must have too.
fn ids(data: &Value) -> String {
    ["request_id", "match_id", "ride_id"].map(|field| text(data, field)).join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_search_waits_for_the_answer_to_the_search_before() {
        let now = clock::now();
        let mut queue = CommandQueue::new("p".to_owned());
        let kinds = ["mailbox.ack", "finder.update", "ride.cancel", "finder.update", "mailbox.ack"];
        let ids = kinds.map(|kind| queue.push(kind, Value::Null, now));
        let due: Vec<String> = queue.due(now).map(|pending| pending.command.id.clone()).collect();
        assert_eq!(due, [0, 1, 2, 4].map(|place: usize| ids[place].clone()));
    }

    #[test]
    fn the_answer_to_a_repeat_must_be_the_answer_before() {
        let now = clock::now();
        let mut queue = CommandQueue::new("p".to_owned());
        let id = queue.push("match.accept", Value::Null, now);
        let ack = serde_json::json!({"match_id": "m"});
        assert!(queue.ack(&id, &ack).is_some());
        assert_eq!(queue.repeated_ack_problem(&id, &ack), None);
        let other = queue.repeated_ack_problem(&id, &serde_json::json!({"match_id": "n"})).unwrap();
        assert!(other.contains("acked with /n/, before with /m/"), "{other}");
        assert_eq!(queue.repeated_refusal_problem(&id, "unavailable", ""), None);
        let refused = queue.repeated_refusal_problem(&id, "ride_ended", "").unwrap();
        assert!(refused.contains("of an acked command was refused: ride_ended"), "{refused}");
        assert!(queue.repeated_ack_problem("q-1", &ack).unwrap().contains("never sent"));
    }
}
