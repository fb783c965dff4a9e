//! What passengers see of their drivers: each position that a driver sent must be seen soon, unless a newer one took its place. A
//! position is recognised by its place, because the clocks of phones are wrong. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::position::Position;

/// The contract: the passenger sees a position at most 3 s after it was sent. The rest is for the network and a busy machine.
const SEEN_LIMIT: Duration = Duration::from_secs(3 + 5);
/// A socket that was opened later than this before a position need not show it.
const CONNECTED_FOR: Duration = Duration::from_secs(1);
/// The most positions of one ride that are awaited.
const AWAITED_MAX: usize = 64;

/// Since when the two of a ride are connected.
pub(super) struct LivePeople {
    pub(super) driver_since: Option<Instant>,
    pub(super) passenger_since: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct LiveLanes {
    /// By ride: positions that were sent and not seen, oldest first.
    awaited: BTreeMap<String, VecDeque<(Position, Instant)>>,
    seen: BTreeSet<String>,
}

impl LiveLanes {
    pub(super) fn sent(&mut self, ride_id: &str, position: Position, now: Instant) {
        let awaited = self.awaited.entry(ride_id.to_owned()).or_default();
        if awaited.len() >= AWAITED_MAX {
            awaited.pop_front();
        }
        awaited.push_back((position, now));
    }

    /// Returns how long ago the position was sent, unless it was seen before, or was never awaited.
    pub(super) fn seen(&mut self, ride_id: &str, position: Position, now: Instant) -> Option<Duration> {
        if !self.seen.contains(ride_id) {
            self.seen.insert(ride_id.to_owned());
        }
        let awaited = self.awaited.get_mut(ride_id)?;
        let index = awaited.iter().rposition(|(sent, _)| is_same_place(sent, &position))?;
        let (_, sent_at) = awaited.drain(..=index).next_back()?;
        Some(now.duration_since(sent_at))
    }

    /// What is overdue, once. `people` says who is connected, `None` once the ride is over.
    pub(super) fn overdue(
        &mut self,
        now: Instant,
        outage: Duration,
        people: impl Fn(&str) -> Option<LivePeople>,
    ) -> Vec<String> {
        let mut overdue = Vec::new();
        self.awaited.retain(|ride_id, awaited| {
            let Some(LivePeople { driver_since, passenger_since }) = people(ride_id) else { return false };
            let since = driver_since.zip(passenger_since).map(|(driver, passenger)| driver.max(passenger));
            awaited.retain(|(_, sent_at)| since.is_some_and(|since| since + CONNECTED_FOR <= *sent_at));
            let Some((_, sent_at)) = awaited.front() else { return true };
            let age = now.duration_since(*sent_at);
            if age >= SEEN_LIMIT + outage {
                let age_s = age.as_secs_f64();
                overdue.push(format!(
                    "ride {ride_id}: a position of the driver was not seen live {age_s:.1} s after it was sent"
                ));
                awaited.clear();
            }
            true
        });
        overdue
    }

    pub(super) fn rides_seen(&self) -> u64 {
        self.seen.len() as u64
    }
}

/// To a tenth of a millimetre: a number may lose its last bit when it is parsed.
fn is_same_place(one: &Position, other: &Position) -> bool {
    (one.lat - other.lat).abs() < 1e-9 && (one.lng - other.lng).abs() < 1e-9
}
