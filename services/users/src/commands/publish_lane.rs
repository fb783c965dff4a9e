//! The way of one user's positions to the stream, shared by all sockets of the user: so many in flight at once, and so many a
//! second. A bucket (`Limit::Points`) says how many a user may send after a pause; without the lane, they would all go out at
//! once and delay everybody's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use platform::limits::Quota;
use streams::event::LocationUpdate;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// The most positions that go out together: all that a user may have in flight.
pub(crate) const PART_MAX: usize = 10;
/// What a user has collected goes out at so many times the rate of the limit: a hundred points after a tunnel in half a
/// second, if that is 10 a second.
const CATCH_UP: f64 = 20.0;

#[derive(Debug)]
pub(crate) struct PublishLane {
    permits: Semaphore,
    per_point: Duration,
    /// When the next position may go out.
    next_at: Mutex<Instant>,
    /// Of each device the newest position, which waits for room in the pod's window.
    held: Mutex<BTreeMap<Arc<str>, LocationUpdate>>,
}

/// Whoever has it publishes the position that the device will hold then. Dropped, the device holds none.
#[derive(Debug)]
pub(crate) struct HeldTurn<'a> {
    lane: &'a PublishLane,
    /// `None` once it was taken.
    device: Option<Arc<str>>,
}

impl HeldTurn<'_> {
    pub(crate) fn take(mut self) -> Option<LocationUpdate> {
        self.lane.held().remove(&self.device.take()?)
    }
}

impl Drop for HeldTurn<'_> {
    fn drop(&mut self) {
        if let Some(device) = self.device.take() {
            self.lane.held().remove(&device);
        }
    }
}

impl PublishLane {
    /// `points` is the limit of a user's positions.
    pub(crate) fn new(points: Quota, now: Instant) -> Self {
        let per_point = Duration::from_secs_f64(1.0 / (points.per_s * CATCH_UP));
        Self { permits: Semaphore::new(PART_MAX), per_point, next_at: Mutex::new(now), held: Mutex::default() }
    }

    /// Waits until `count` positions, [`PART_MAX`] at most, may go out. They count as in flight until the permit is dropped.
    /// `None` if the lane is closed, which it never is.
    pub(crate) async fn enter(&self, count: usize) -> Option<SemaphorePermit<'_>> {
        let permit = self.permits.acquire_many(u32::try_from(count).unwrap_or(u32::MAX)).await.ok()?;
        let now = Instant::now();
        let at = self.reserve(count, now);
        if at > now {
            sleep_until(at).await;
        }
        Some(permit)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, LocationUpdate>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a position of the device waits.
    pub(crate) fn holds(&self, device: &str) -> bool {
        self.held().contains_key(device)
    }

    /// Lets a position wait. If one of the device waits already, the newer of the two does, and there is nothing more to do.
    pub(crate) fn hold(&self, device: &Arc<str>, update: LocationUpdate) -> Option<HeldTurn<'_>> {
        let mut held = self.held();
        if let Some(before) = held.get_mut(device) {
            if before.recorded_at <= update.recorded_at {
                *before = update;
            }
            return None;
        }
        held.insert(device.clone(), update);
        Some(HeldTurn { lane: self, device: Some(device.clone()) })
    }

    /// The time at which `count` positions may go out.
    fn reserve(&self, count: usize, now: Instant) -> Instant {
        let mut next_at = self.next_at.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now.max(*next_at);
        *next_at = at + self.per_point * u32::try_from(count).unwrap_or(u32::MAX);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn positions_of_one_user_go_out_at_a_rate_and_a_single_one_at_once() {
        let start = Instant::now();
        let lane = PublishLane::new(Quota { burst: 4_000, per_s: 10.0 }, start);
        drop(lane.enter(1).await.unwrap());
        assert_eq!(start.elapsed(), Duration::ZERO, "after a pause");
        for _ in 0..10 {
            drop(lane.enter(10).await.unwrap());
        }
        assert_eq!(start.elapsed().as_millis(), 5 + 9 * 50);
        // What is in flight makes the next wait, whatever the rate.
        tokio::time::advance(Duration::from_secs(1)).await;
        let (five, six) = (lane.enter(5).await.unwrap(), lane.enter(6));
        let mut six = std::pin::pin!(six);
        assert!(tokio::time::timeout(Duration::from_secs(9), &mut six).await.is_err());
        drop(five);
        assert!(tokio::time::timeout(Duration::from_secs(1), six).await.is_ok());
    }
}
