//! A durable consumer: its cursor, what it has handed out, what comes again and when. It knows sequences, never messages,
//! and takes the time as an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Alarm;
use crate::bus::ConsumerInfo;
use crate::topology::{self, Storage, subject_matches};

/// What JetStream puts in for a bound that is 0.
const DEFAULT_MAX_ACK_PENDING: i64 = 1_000;
/// What JetStream puts in for an ack wait of 0.
const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) config: topology::Consumer,
    pub(super) name: Arc<str>,
    pub(super) made: Instant,
    /// For pullers that wait: something came, or the consumer is gone.
    pub(super) wake: Arc<Notify>,
    /// Stored, wanted, never delivered; ascending.
    waiting: VecDeque<u64>,
    /// The first stream sequence never looked at; all of `waiting` is there or above.
    cursor: u64,
    /// The highest stream sequence handed out.
    delivered: u64,
    /// Before the first delivery the server tells its cursor for it, but for a stream in files.
    tells_cursor: bool,
    pending: BTreeMap<u64, Pending>,
    /// When the pending messages that are with somebody come back.
    due: BTreeSet<(Instant, u64)>,
    /// The redelivery queue, in the order in which messages came back.
    again: BTreeMap<u64, u64>,
    again_next: u64,
    /// Delivered as often as allowed: never again, and still wanted by this consumer until somebody acknowledges.
    given_up: BTreeSet<u64>,
    /// The next consumer sequence.
    next_delivery: u64,
    floor_delivery: u64,
    floor: u64,
}

#[derive(Debug)]
struct Pending {
    /// The consumer sequence of its first delivery.
    first_delivery: u64,
    deliveries: u64,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// With somebody, until then.
    Out(Instant),
    /// In the redelivery queue, under this number.
    Again(u64),
}

/// One message handed out.
pub(super) struct HandedOut {
    pub(super) sequence: u64,
    /// The consumer sequence of this delivery.
    pub(super) delivery: u64,
    pub(super) deliveries: u64,
    /// What waits behind it.
    pub(super) pending: u64,
}

/// A message that reached the limit of deliveries.
pub(super) struct GivenUp {
    pub(super) sequence: u64,
    pub(super) deliveries: u64,
}

impl Consumer {
    /// A consumer from the stream's beginning. `stored` are the sequences of what it wants, `first` the oldest in the stream.
    pub(super) fn new(
        config: &topology::Consumer,
        storage: Storage,
        stored: VecDeque<u64>,
        first: u64,
        made: Instant,
    ) -> Self {
        Self {
            name: config.durable.as_str().into(),
            made,
            config: normal(config.clone()),
            wake: Arc::default(),
            waiting: stored,
            cursor: first,
            delivered: first.saturating_sub(1),
            tells_cursor: storage == Storage::Memory && first == 1,
            pending: BTreeMap::new(),
            due: BTreeSet::new(),
            again: BTreeMap::new(),
            again_next: 0,
            given_up: BTreeSet::new(),
            next_delivery: 1,
            floor_delivery: 0,
            floor: first.saturating_sub(1),
        }
    }

    /// Takes a new configuration; the cursor and what is out stay. `stored` are the sequences, from the cursor on, of what
    /// the new filter wants.
    pub(super) fn update(&mut self, config: topology::Consumer, stored: VecDeque<u64>, now: Instant) {
        let was = std::mem::replace(&mut self.config, normal(config));
        self.waiting = stored;
        self.due.clear();
        // Waits that have begun are those of the new configuration, from their beginning on; what is over by that comes
        // back now, together, and so in the order of the stream.
        for (&sequence, pending) in &mut self.pending {
            let Place::Out(until) = &mut pending.place else { continue };
            let (old, new) = (patience(&was, pending.deliveries), patience(&self.config, pending.deliveries));
            *until = (*until + new).checked_sub(old).map_or(now, |until| until.max(now));
            self.due.insert((*until, sequence));
        }
        self.wake.notify_waiters();
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Whether its filter covers `subject`.
    pub(super) fn wants(&self, subject: &str) -> bool {
        let filter = &self.config.filter;
        filter.is_empty() || filter == subject || subject_matches(filter, subject)
    }

    /// A message that it wants was stored.
    pub(super) fn arrived(&mut self, sequence: u64) {
        self.waiting.push_back(sequence);
        self.wake.notify_waiters();
    }

    /// Whether the stored message, whose subject it wants, is still to be acknowledged here.
    pub(super) fn needs(&self, sequence: u64) -> bool {
        sequence >= self.cursor || self.pending.contains_key(&sequence) || self.given_up.contains(&sequence)
    }

    /// Hands out up to `max`: redeliveries first, in the order in which they came back; `last` is the stream's newest. What
    /// came back for the last time is given up instead: the server, too, notices that only when somebody asks.
    pub(super) fn take(
        &mut self,
        max: usize,
        last: u64,
        now: Instant,
        alarm: &mut Alarm,
    ) -> (Vec<HandedOut>, Vec<GivenUp>) {
        let (mut out, mut given_up) = (Vec::new(), Vec::new());
        while out.len() < max {
            let sequence = if let Some((_, sequence)) = self.again.pop_first() {
                let deliveries = self.pending.get(&sequence).map_or(0, |p| p.deliveries);
                if self.exhausted(deliveries) {
                    given_up.extend(self.give_up(sequence, deliveries));
                    continue;
                }
                sequence
            } else if self.config.max_ack_pending > 0 && self.pending.len() as i64 >= self.config.max_ack_pending {
                break;
            } else if let Some(sequence) = self.waiting.pop_front() {
                self.cursor = sequence + 1;
                self.delivered = sequence;
                sequence
            } else {
                self.cursor = self.cursor.max(last + 1);
                break;
            };
            let delivery = self.next_delivery;
            self.next_delivery += 1;
            let mut pending = self.pending.remove(&sequence).unwrap_or(Pending {
                first_delivery: delivery,
                deliveries: 0,
                place: Place::Out(now),
            });
            pending.deliveries += 1;
            let until = now + self.patience(pending.deliveries);
            pending.place = Place::Out(until);
            self.due.insert((until, sequence));
            alarm.at(until);
            let deliveries = pending.deliveries;
            self.pending.insert(sequence, pending);
            out.push(HandedOut { sequence, delivery, deliveries, pending: self.waiting.len() as u64 });
        }
        (out, given_up)
    }

    fn patience(&self, deliveries: u64) -> Duration {
        patience(&self.config, deliveries)
    }

    fn exhausted(&self, deliveries: u64) -> bool {
        self.config.max_deliver > 0 && deliveries >= self.config.max_deliver.unsigned_abs()
    }

    /// Acknowledged or terminated, by this or an older delivery, or after it was given up. False if it was never delivered:
    /// then nothing happened.
    pub(super) fn done(&mut self, sequence: u64, delivery: u64) -> bool {
        if sequence >= self.cursor {
            return false;
        }
        let mut delivery = delivery;
        if let Some(pending) = self.pending.remove(&sequence) {
            self.leave(sequence, pending.place);
            delivery = pending.first_delivery;
            // There is room below the bound again.
            self.wake.notify_waiters();
        }
        self.given_up.remove(&sequence);
        if self.pending.is_empty() {
            (self.floor_delivery, self.floor) = (self.next_delivery - 1, self.delivered);
        } else if delivery == self.floor_delivery + 1 {
            (self.floor_delivery, self.floor) = (delivery, sequence);
            if let Some((next, pending)) = self.pending.range(sequence + 1..).next() {
                (self.floor_delivery, self.floor) = (pending.first_delivery - 1, next - 1);
            }
        }
        true
    }

    fn leave(&mut self, sequence: u64, place: Place) {
        match place {
            Place::Out(until) => self.due.remove(&(until, sequence)),
            Place::Again(number) => self.again.remove(&number).is_some(),
        };
    }

    fn move_to(&mut self, sequence: u64, place: Place) {
        let Some(pending) = self.pending.get_mut(&sequence) else { return };
        let was = std::mem::replace(&mut pending.place, place);
        self.leave(sequence, was);
        match place {
            Place::Out(until) => {
                self.due.insert((until, sequence));
            }
            Place::Again(number) => {
                self.again.insert(number, sequence);
                self.wake.notify_waiters();
            }
        }
    }

    /// Comes again after `delay`; at once, behind what is in the redelivery queue already, if that is zero.
    pub(super) fn retry(&mut self, sequence: u64, delivery: u64, delay: Duration, now: Instant, alarm: &mut Alarm) {
        let known = |_: &&Pending| delivery < self.next_delivery && delivery > self.floor_delivery;
        let Some(pending) = self.pending.get(&sequence).filter(known) else { return };
        if !delay.is_zero() {
            // As the server has it: the delay begins the last ack wait before its end, and that wait is the back-off's.
            let until = (now + delay + self.patience(pending.deliveries))
                .checked_sub(self.config.ack_wait)
                .map_or(now, |until| until.max(now));
            self.move_to(sequence, Place::Out(until));
            alarm.at(until);
        } else if matches!(pending.place, Place::Out(_)) {
            self.come_back(sequence);
        }
    }

    /// Still at work; what is in the redelivery queue already stays there.
    pub(super) fn in_progress(&mut self, sequence: u64, now: Instant, alarm: &mut Alarm) {
        if let Some(Pending { deliveries, place: Place::Out(_), .. }) = self.pending.get(&sequence) {
            let until = now + self.patience(*deliveries);
            self.move_to(sequence, Place::Out(until));
            alarm.at(until);
        }
    }

    /// Back into the redelivery queue.
    fn come_back(&mut self, sequence: u64) {
        let number = self.again_next;
        self.again_next += 1;
        self.move_to(sequence, Place::Again(number));
    }

    /// Never again. It is told if the limit is just reached, and not if it was set lower since.
    fn give_up(&mut self, sequence: u64, deliveries: u64) -> Option<GivenUp> {
        let pending = self.pending.remove(&sequence)?;
        self.leave(sequence, pending.place);
        self.given_up.insert(sequence);
        self.wake.notify_waiters();
        (deliveries == self.config.max_deliver.unsigned_abs()).then_some(GivenUp { sequence, deliveries })
    }

    /// Takes back what was not answered in time.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<GivenUp> {
        let mut given_up = Vec::new();
        while let Some(&(until, sequence)) = self.due.first()
            && until <= now
        {
            // Here the server counts one delivery less, from the second on: of what may be delivered more than once, only
            // the next pull finds out that it was the last time.
            let deliveries = self.pending.get(&sequence).map_or(0, |p| p.deliveries).saturating_sub(1).max(1);
            if self.exhausted(deliveries) {
                given_up.extend(self.give_up(sequence, deliveries));
            } else {
                self.come_back(sequence);
            }
        }
        given_up
    }

    /// When it next takes something back.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(until, _)| *until)
    }

    /// The stream dropped the message by a limit: as if it were terminated.
    pub(super) fn dropped(&mut self, sequence: u64) {
        if self.waiting.front() == Some(&sequence) {
            self.waiting.pop_front();
        } else if let Ok(index) = self.waiting.binary_search(&sequence) {
            self.waiting.remove(index);
        }
        if self.pending.contains_key(&sequence) {
            self.done(sequence, 0);
        }
        self.given_up.remove(&sequence);
    }

    pub(super) fn info(&self) -> ConsumerInfo {
        let again = self.pending.values().filter(|p| p.deliveries > 1).count();
        ConsumerInfo {
            pending: self.waiting.len() as u64,
            ack_pending: self.pending.len() as u64,
            // The server counts those that it gave up as well, unless nothing is ever delivered twice.
            redelivered: if self.config.max_deliver == 1 { 0 } else { (again + self.given_up.len()) as u64 },
            ack_floor: self.floor,
            delivered: if self.tells_cursor && self.next_delivery == 1 { self.cursor - 1 } else { self.delivered },
        }
    }
}

/// The wait for an answer after that many deliveries.
fn patience(config: &topology::Consumer, deliveries: u64) -> Duration {
    let index = (deliveries.saturating_sub(1) as usize).min(config.backoff.len().saturating_sub(1));
    config.backoff.get(index).copied().unwrap_or(config.ack_wait)
}

/// With the server's defaults; the first back-off overrides the ack wait.
fn normal(mut config: topology::Consumer) -> topology::Consumer {
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
