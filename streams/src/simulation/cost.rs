//! What work takes in simulated time. Without costs a process of a simulation does everything at once; with them it is a queue with
//! one server: each transaction and each message occupies it for a while, after all that came before.
//!
//! Rows: two transactions that write events of the same entity (a ride, a user, an offer) write its row. The second begins when the
//! first has ended, as with a row lock in PostgreSQL; meanwhile its process works on.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// What one transaction and one message take of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Costs {
    /// Of each visit to the database: a transaction, whether it is committed or only reads, or a statement of the relay.
    pub transaction: Duration,
    /// Of each message that a process sends or receives; its acknowledgement is part of it.
    pub hop: Duration,
}

/// What a process has done since its costs were set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// How long it was occupied.
    pub busy: Duration,
    /// Visits to the database.
    pub transactions: u64,
    /// Messages that it sent or received.
    pub hops: u64,
    /// How long its transactions waited for rows.
    pub waited_for_rows: Duration,
}

/// Timers of simulated time have this resolution. What is left of a cost is owed to the next one, so that no time is lost or gained.
const RESOLUTION: Duration = Duration::from_millis(1);

/// The one server of a process.
#[derive(Debug, Default)]
pub(super) struct Processor {
    free_at: Option<Instant>,
    pub(super) work: Work,
}

impl Processor {
    /// Occupies it for `cost` after all that it has to do already. Returns until when the caller has to wait.
    pub(super) fn occupy(&mut self, cost: Duration, now: Instant) -> Option<Instant> {
        let until = self.free_at.map_or(now, |at| at.max(now)) + cost;
        self.free_at = Some(until);
        self.work.busy += cost;
        self.busy_until(now)
    }

    /// Until when somebody has to wait whose turn is after all that it has to do.
    pub(super) fn busy_until(&self, now: Instant) -> Option<Instant> {
        // The timers round up: this is the last of their ticks that is not later.
        self.free_at?.checked_sub(RESOLUTION - Duration::from_nanos(1)).filter(|at| *at > now)
    }
}

/// Until when the rows of an entity are locked.
#[derive(Debug, Default)]
pub(super) struct RowLocks(BTreeMap<Uuid, Instant>);

/// Ends of locks that are stored; beyond that those that are over are forgotten.
const LOCKS_MAX: usize = 100_000;

impl RowLocks {
    /// A transaction that took `cost` until now wrote the rows of these entities: when it would have ended behind the locks of others.
    pub(super) fn lock(&mut self, keys: impl Iterator<Item = Uuid> + Clone, cost: Duration, now: Instant) -> Instant {
        let began = now.checked_sub(cost).unwrap_or(now);
        let free_at = keys.clone().filter_map(|key| self.0.get(&key).copied()).filter(|at| *at > began).max();
        let ends = free_at.map_or(now, |at| at + cost);
        if self.0.len() >= LOCKS_MAX {
            self.0.retain(|_, at| *at > began);
        }
        self.0.extend(keys.map(|key| (key, ends)));
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn work_of_a_process_waits_for_what_came_before_and_loses_no_part_of_a_millisecond() {
        let (mut processor, start) = (Processor::default(), Instant::now());
        let (hop, rest) = (Duration::from_micros(300), ms(1) - Duration::from_nanos(1));
        let waits: Vec<bool> = (0..10).map(|_| processor.occupy(hop, start).is_some()).collect();
        assert_eq!(
            waits.iter().filter(|waits| !**waits).count(),
            3,
            "until less than a millisecond is owed: {waits:?}"
        );
        assert_eq!(processor.free_at, Some(start + ms(3)));
        assert_eq!(processor.occupy(ms(2), start + ms(1)), Some(start + ms(5) - rest));
        assert_eq!(processor.occupy(ms(2), start + ms(100)), Some(start + ms(102) - rest), "it was idle");
        assert_eq!(processor.work.busy, ms(7));
    }

    #[tokio::test(start_paused = true)]
    async fn transactions_of_one_entity_follow_each_other_and_others_do_not_wait() {
        let (mut locks, start) = (RowLocks::default(), Instant::now() + ms(10));
        let [one, other] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        assert_eq!(locks.lock([one].into_iter(), ms(2), start), start);
        assert_eq!(locks.lock([one, other].into_iter(), ms(2), start + ms(1)), start + ms(2));
        assert_eq!(locks.lock([other].into_iter(), ms(2), start + ms(1)), start + ms(4));
        assert_eq!(locks.lock([one].into_iter(), ms(2), start + ms(9)), start + ms(9));
    }
}
