//! Core messages: subscriptions, queue groups, bounded queues. Nothing here is stored or redelivered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::bus::message::CoreMessage;
use crate::topology::subject_matches;

/// Messages that a subscription holds; further ones are dropped and counted.
const CAPACITY: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Core {
    subscribers: BTreeMap<u64, Subscriber>,
    next_id: u64,
    /// Subscriptions without a wildcard, by subject.
    exact: BTreeMap<String, BTreeSet<u64>>,
    /// Subscriptions with a wildcard.
    patterns: BTreeSet<u64>,
    /// Messages that each queue group got so far: its members take turns.
    turns: BTreeMap<String, usize>,
    pub(super) dropped: u64,
}

#[derive(Debug)]
struct Subscriber {
    subject: String,
    queue: Option<String>,
    messages: VecDeque<CoreMessage>,
    wake: Arc<Notify>,
}

fn has_wildcard(subject: &str) -> bool {
    subject.split('.').any(|token| token == "*" || token == ">")
}

impl Core {
    pub(super) fn subscribe(&mut self, subject: &str, queue: Option<&str>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if has_wildcard(subject) {
            self.patterns.insert(id);
        } else {
            self.exact.entry(subject.to_owned()).or_default().insert(id);
        }
        let queue = queue.map(str::to_owned);
        let subscriber =
            Subscriber { subject: subject.to_owned(), queue, messages: VecDeque::new(), wake: Arc::default() };
        self.subscribers.insert(id, subscriber);
        id
    }

    /// Subscribes to a new subject, `<prefix>.<id>`.
    pub(super) fn subscribe_inbox(&mut self, prefix: &str) -> u64 {
        self.subscribe(&format!("{prefix}.{}", self.next_id), None)
    }

    pub(super) fn unsubscribe(&mut self, id: u64) {
        let Some(subscriber) = self.subscribers.remove(&id) else { return };
        self.patterns.remove(&id);
        if let Some(ids) = self.exact.get_mut(&subscriber.subject) {
            ids.remove(&id);
            if ids.is_empty() {
                self.exact.remove(&subscriber.subject);
            }
        }
        if let Some(queue) = &subscriber.queue
            && !self.subscribers.values().any(|s| s.queue.as_ref() == Some(queue))
        {
            self.turns.remove(queue);
        }
    }

    /// The next message of a subscription, or what notifies of one; `None` if the subscription is gone.
    pub(super) fn next(&mut self, id: u64) -> Result<Option<CoreMessage>, Arc<Notify>> {
        match self.subscribers.get_mut(&id) {
            None => Ok(None),
            Some(subscriber) => match subscriber.messages.pop_front() {
                Some(message) => Ok(Some(message)),
                None => Err(subscriber.wake.clone()),
            },
        }
    }

    /// Sends a message to every subscription that matches, and to one member of each queue group in turn. Returns how many
    /// matched.
    pub(super) fn send(&mut self, message: &CoreMessage) -> usize {
        let exact = self.exact.get(&message.subject).into_iter().flatten();
        let patterns = self
            .patterns
            .iter()
            .filter(|id| self.subscribers.get(id).is_some_and(|s| subject_matches(&s.subject, &message.subject)));
        let mut receivers: Vec<u64> = exact.chain(patterns).copied().collect();
        if receivers.is_empty() {
            return 0;
        }
        receivers.sort_unstable();
        let mut groups: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        receivers.retain(|id| match self.subscribers.get(id).and_then(|s| s.queue.clone()) {
            Some(queue) => {
                groups.entry(queue).or_default().push(*id);
                false
            }
            None => true,
        });
        for (queue, members) in groups {
            let turn = self.turns.entry(queue).or_insert(0);
            receivers.push(members[*turn % members.len()]);
            *turn = turn.wrapping_add(1);
        }
        for id in &receivers {
            let Some(subscriber) = self.subscribers.get_mut(id) else { continue };
            if subscriber.messages.len() >= CAPACITY {
                self.dropped += 1;
            } else {
                subscriber.messages.push_back(message.clone());
                // Stores a permit if nobody waits at this moment, so no wake-up is lost.
                subscriber.wake.notify_one();
            }
        }
        receivers.len()
    }
}
