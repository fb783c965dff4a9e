//! A durable consumer: its cursor, the pending deliveries, the redelivery queue and the ack floor. It knows sequences, never
//! messages, and takes the time as an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::alarm::Alarm;
use crate::bus::message::ConsumerInfo;
use crate::topology::{self, Storage, subject_matches};

/// JetStream's value for a `max_ack_pending` of 0.
const DEFAULT_MAX_ACK_PENDING: i64 = 1_000;
/// JetStream's value for an `ack_wait` of 0.
const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) config: topology::Consumer,
    pub(super) name: Arc<str>,
    pub(super) created_at: Instant,
    /// Notifies waiting pullers: there may be something to deliver, or the consumer is gone.
    pub(super) wake: Arc<Notify>,
    /// Stored, matched by the filter, and never delivered; ascending.
    undelivered: VecDeque<u64>,
    /// The first stream sequence not considered for delivery yet; all of `undelivered` is there or above.
    cursor: u64,
    /// The highest stream sequence delivered.
    delivered: u64,
    /// Whether `delivered` is reported as `cursor` − 1 before the first delivery: the server does so for a consumer that began
    /// at the first message of a memory stream.
    reports_cursor: bool,
    pending: BTreeMap<u64, Pending>,
    /// The ends of ack waits and of retry delays, with the stream sequence.
    due: BTreeSet<(Instant, u64)>,
    /// Stream sequences by their number in the queue.
    redelivery_queue: BTreeMap<u64, u64>,
    next_queue_number: u64,
    /// Delivered as often as allowed and never acknowledged. They are never delivered again, but the consumer still needs them.
    given_up: BTreeSet<u64>,
    next_consumer_sequence: u64,
    floor_consumer_sequence: u64,
    floor: u64,
}

#[derive(Debug)]
struct Pending {
    /// The consumer sequence of the first delivery.
    first_consumer_sequence: u64,
    deliveries: u64,
    state: PendingState,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum PendingState {
    /// A process has it, or it waits for its retry delay: until then.
    DueAt(Instant),
    /// In the redelivery queue, with this number.
    Queued(u64),
}

/// One delivery.
pub(super) struct Assignment {
    pub(super) sequence: u64,
    pub(super) consumer_sequence: u64,
    pub(super) deliveries: u64,
    /// Messages never delivered yet, after this one.
    pub(super) pending: u64,
}

/// A message that was delivered as often as allowed.
pub(super) struct GivenUp {
    pub(super) sequence: u64,
    pub(super) deliveries: u64,
}

impl Consumer {
    /// A consumer from the stream's beginning. `undelivered` are the stored sequences that its filter matches, `first` is the
    /// oldest sequence in the stream.
    pub(super) fn new(
        config: &topology::Consumer,
        storage: Storage,
        undelivered: VecDeque<u64>,
        first: u64,
        created_at: Instant,
    ) -> Self {
        Self {
            name: config.durable.as_str().into(),
            created_at,
            config: with_defaults(config.clone()),
            wake: Arc::default(),
            undelivered,
            cursor: first,
            delivered: first.saturating_sub(1),
            reports_cursor: storage != Storage::File && first == 1,
            pending: BTreeMap::new(),
            due: BTreeSet::new(),
            redelivery_queue: BTreeMap::new(),
            next_queue_number: 0,
            given_up: BTreeSet::new(),
            next_consumer_sequence: 1,
            floor_consumer_sequence: 0,
            floor: first.saturating_sub(1),
        }
    }

    /// Changes the configuration; the cursor and pending messages stay. `undelivered` are the stored sequences, from the cursor
    /// on, that the new filter matches.
    pub(super) fn update(&mut self, config: topology::Consumer, undelivered: VecDeque<u64>, now: Instant) {
        let old_config = std::mem::replace(&mut self.config, with_defaults(config));
        self.undelivered = undelivered;
        self.due.clear();
        // An ack wait that has begun gets the length of the new configuration, counted from its beginning. Those that are over
        // by that are due now, together, so they queue in stream order.
        for (&sequence, pending) in &mut self.pending {
            let PendingState::DueAt(until) = &mut pending.state else { continue };
            let (old, new) = (ack_wait(&old_config, pending.deliveries), ack_wait(&self.config, pending.deliveries));
            *until = (*until + new).checked_sub(old).map_or(now, |until| until.max(now));
            self.due.insert((*until, sequence));
        }
        self.wake.notify_waiters();
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Whether its filter matches `subject`.
    pub(super) fn matches(&self, subject: &str) -> bool {
        let filter = &self.config.filter;
        filter.is_empty() || filter == subject || subject_matches(filter, subject)
    }

    /// The stream stored a message whose subject the filter matches.
    pub(super) fn on_stored(&mut self, sequence: u64) {
        self.undelivered.push_back(sequence);
        self.wake.notify_waiters();
    }

    /// Whether this consumer has yet to acknowledge a stored message whose subject its filter matches.
    pub(super) fn needs(&self, sequence: u64) -> bool {
        sequence >= self.cursor || self.pending.contains_key(&sequence) || self.given_up.contains(&sequence)
    }

    /// Delivers up to `max` messages: first from the redelivery queue, then new ones; `last` is the stream's newest sequence. A
    /// queued message that has used up its deliveries is given up here: the server, too, notices that only at the next pull.
    pub(super) fn assign(
        &mut self,
        max: usize,
        last: u64,
        now: Instant,
        alarm: &mut Alarm,
    ) -> (Vec<Assignment>, Vec<GivenUp>) {
        let (mut assigned, mut given_up) = (Vec::new(), Vec::new());
        while assigned.len() < max {
            let sequence = if let Some((_, sequence)) = self.redelivery_queue.pop_first() {
                let deliveries = self.pending.get(&sequence).map_or(0, |p| p.deliveries);
                if self.exhausted(deliveries) {
                    given_up.extend(self.give_up(sequence, deliveries));
                    continue;
                }
                sequence
            } else if self.config.max_ack_pending > 0 && self.pending.len() as i64 >= self.config.max_ack_pending {
                break;
            } else if let Some(sequence) = self.undelivered.pop_front() {
                self.cursor = sequence + 1;
                self.delivered = sequence;
                sequence
            } else {
                self.cursor = self.cursor.max(last + 1);
                break;
            };
            let consumer_sequence = self.next_consumer_sequence;
            self.next_consumer_sequence += 1;
            let mut pending = self.pending.remove(&sequence).unwrap_or(Pending {
                first_consumer_sequence: consumer_sequence,
                deliveries: 0,
                state: PendingState::DueAt(now),
            });
            pending.deliveries += 1;
            let until = now + ack_wait(&self.config, pending.deliveries);
            pending.state = PendingState::DueAt(until);
            self.due.insert((until, sequence));
            alarm.at(until);
            let deliveries = pending.deliveries;
            self.pending.insert(sequence, pending);
            let pending = self.undelivered.len() as u64;
            assigned.push(Assignment { sequence, consumer_sequence, deliveries, pending });
        }
        (assigned, given_up)
    }

    fn exhausted(&self, deliveries: u64) -> bool {
        self.config.max_deliver > 0 && deliveries >= self.config.max_deliver.unsigned_abs()
    }

    /// Ends a message that this or an older delivery acknowledged or terminated, also after it was given up. False if the
    /// consumer never delivered it: then nothing changes.
    pub(super) fn done(&mut self, sequence: u64, consumer_sequence: u64) -> bool {
        if sequence >= self.cursor {
            return false;
        }
        let mut consumer_sequence = consumer_sequence;
        if let Some(pending) = self.pending.remove(&sequence) {
            self.unschedule(sequence, pending.state);
            consumer_sequence = pending.first_consumer_sequence;
            // There is room below `max_ack_pending` again.
            self.wake.notify_waiters();
        }
        self.given_up.remove(&sequence);
        if self.pending.is_empty() {
            (self.floor_consumer_sequence, self.floor) = (self.next_consumer_sequence - 1, self.delivered);
        } else if consumer_sequence == self.floor_consumer_sequence + 1 {
            (self.floor_consumer_sequence, self.floor) = (consumer_sequence, sequence);
            if let Some((next, pending)) = self.pending.range(sequence + 1..).next() {
                (self.floor_consumer_sequence, self.floor) = (pending.first_consumer_sequence - 1, next - 1);
            }
        }
        true
    }

    fn unschedule(&mut self, sequence: u64, state: PendingState) {
        match state {
            PendingState::DueAt(until) => self.due.remove(&(until, sequence)),
            PendingState::Queued(number) => self.redelivery_queue.remove(&number).is_some(),
        };
    }

    fn set_state(&mut self, sequence: u64, state: PendingState) {
        let Some(pending) = self.pending.get_mut(&sequence) else { return };
        let old_state = std::mem::replace(&mut pending.state, state);
        self.unschedule(sequence, old_state);
        match state {
            PendingState::DueAt(until) => {
                self.due.insert((until, sequence));
            }
            PendingState::Queued(number) => {
                self.redelivery_queue.insert(number, sequence);
                self.wake.notify_waiters();
            }
        }
    }

    /// Redelivers after `delay`; with zero the message goes to the end of the redelivery queue, unless it is there already.
    pub(super) fn retry(
        &mut self,
        sequence: u64,
        consumer_sequence: u64,
        delay: Duration,
        now: Instant,
        alarm: &mut Alarm,
    ) {
        let is_current =
            consumer_sequence < self.next_consumer_sequence && consumer_sequence > self.floor_consumer_sequence;
        let Some(pending) = self.pending.get(&sequence).filter(|_| is_current) else { return };
        if !delay.is_zero() {
            // As the server computes it: it sets the beginning of an ack wait so that a wait of `ack_wait` would end after the
            // delay, and then lets the wait of this delivery's back-off pass.
            let until = (now + delay + ack_wait(&self.config, pending.deliveries))
                .checked_sub(self.config.ack_wait)
                .map_or(now, |until| until.max(now));
            self.set_state(sequence, PendingState::DueAt(until));
            alarm.at(until);
        } else if matches!(pending.state, PendingState::DueAt(_)) {
            self.queue(sequence);
        }
    }

    /// Restarts the ack wait. A message in the redelivery queue stays there.
    pub(super) fn in_progress(&mut self, sequence: u64, now: Instant, alarm: &mut Alarm) {
        if let Some(Pending { deliveries, state: PendingState::DueAt(_), .. }) = self.pending.get(&sequence) {
            let until = now + ack_wait(&self.config, *deliveries);
            self.set_state(sequence, PendingState::DueAt(until));
            alarm.at(until);
        }
    }

    /// Puts a pending message at the end of the redelivery queue.
    fn queue(&mut self, sequence: u64) {
        let number = self.next_queue_number;
        self.next_queue_number += 1;
        self.set_state(sequence, PendingState::Queued(number));
    }

    /// Never delivers the message again. The server sends an advisory, and so this returns a value, only if the message has
    /// just reached the limit, not if the limit was lowered below its deliveries.
    fn give_up(&mut self, sequence: u64, deliveries: u64) -> Option<GivenUp> {
        let pending = self.pending.remove(&sequence)?;
        self.unschedule(sequence, pending.state);
        self.given_up.insert(sequence);
        self.wake.notify_waiters();
        (deliveries == self.config.max_deliver.unsigned_abs()).then_some(GivenUp { sequence, deliveries })
    }

    /// Queues the messages whose ack wait or retry delay is over for redelivery, or gives them up.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<GivenUp> {
        let mut given_up = Vec::new();
        while let Some(&(until, sequence)) = self.due.first()
            && until <= now
        {
            // The server counts one delivery less here, from the second on. So a message with more than one delivery is given
            // up only by the next pull; a `max_deliver` of 1 takes effect here.
            let deliveries = self.pending.get(&sequence).map_or(0, |p| p.deliveries).saturating_sub(1).max(1);
            if self.exhausted(deliveries) {
                given_up.extend(self.give_up(sequence, deliveries));
            } else {
                self.queue(sequence);
            }
        }
        given_up
    }

    /// When [`expire`](Self::expire) next has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(until, _)| *until)
    }

    /// The stream removed the message: here it counts as terminated.
    pub(super) fn on_deleted(&mut self, sequence: u64) {
        if self.undelivered.front() == Some(&sequence) {
            self.undelivered.pop_front();
        } else if let Ok(index) = self.undelivered.binary_search(&sequence) {
            self.undelivered.remove(index);
        }
        if self.pending.contains_key(&sequence) {
            self.done(sequence, 0);
        }
        self.given_up.remove(&sequence);
    }

    pub(super) fn info(&self) -> ConsumerInfo {
        let redelivered = self.pending.values().filter(|p| p.deliveries > 1).count();
        let reports_cursor = self.reports_cursor && self.next_consumer_sequence == 1;
        ConsumerInfo {
            pending: self.undelivered.len() as u64,
            ack_pending: self.pending.len() as u64,
            // The server also counts the messages that it gave up, except with a `max_deliver` of 1.
            redelivered: if self.config.max_deliver == 1 { 0 } else { (redelivered + self.given_up.len()) as u64 },
            ack_floor: self.floor,
            delivered: if reports_cursor { self.cursor - 1 } else { self.delivered },
        }
    }
}

/// The ack wait of this delivery of a message.
fn ack_wait(config: &topology::Consumer, deliveries: u64) -> Duration {
    let index = (deliveries.saturating_sub(1) as usize).min(config.backoff.len().saturating_sub(1));
    config.backoff.get(index).copied().unwrap_or(config.ack_wait)
}

/// Fills in the server's defaults; the first back-off overrides the ack wait.
fn with_defaults(mut config: topology::Consumer) -> topology::Consumer {
    if let Some(first) = config.backoff.first() {
        config.ack_wait = *first;
    } else if config.ack_wait.is_zero() {
        config.ack_wait = DEFAULT_ACK_WAIT;
    }
    if config.max_deliver <= 0 {
        config.max_deliver = -1;
    }
    if config.max_ack_pending == 0 {
        config.max_ack_pending = DEFAULT_MAX_ACK_PENDING;
    }
    config
}
