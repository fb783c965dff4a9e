//! The means of people's ratings as rides says them, remembered in one process. It knows no bus.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Duration, Utc};
use streams::UserId;

/// A mean may be older than the newest rating by this.
const LIFE: Duration = Duration::seconds(2);
/// For so long it is shown while rides does not answer.
const STALE_LIFE: Duration = Duration::hours(1);
/// The most means that are remembered: about 1 MB.
const MEANS_MAX: usize = 10_000;

/// A mean, or that there is none, with the time when rides said so.
type Remembered = (Option<f64>, DateTime<Utc>);

#[derive(Debug, Default)]
pub(crate) struct MeansCache(Mutex<BTreeMap<UserId, Remembered>>);

impl MeansCache {
    fn means(&self) -> MutexGuard<'_, BTreeMap<UserId, Remembered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of `users` whose means are not known, or not any more.
    pub(crate) fn unknown(&self, users: impl Iterator<Item = UserId>, now: DateTime<Utc>) -> Vec<UserId> {
        let means = self.means();
        users.filter(|user| means.get(user).is_none_or(|(_, read_at)| now - *read_at >= LIFE)).collect()
    }

    /// The mean of `user`, if there is one and it is known.
    pub(crate) fn mean(&self, user: UserId, now: DateTime<Utc>) -> Option<f64> {
        let means = self.means();
        let (mean, _) = means.get(&user).filter(|(_, read_at)| now - *read_at < STALE_LIFE)?;
        *mean
    }

    pub(crate) fn remember(&self, read: impl IntoIterator<Item = (UserId, Option<f64>)>, now: DateTime<Utc>) {
        let mut means = self.means();
        for (user, mean) in read {
            if means.len() >= MEANS_MAX {
                means.retain(|_, (_, read_at)| now - *read_at < LIFE);
            }
            if means.len() >= MEANS_MAX {
                means.clear();
            }
            means.insert(user, (mean, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_mean_is_read_again_after_two_seconds_and_shown_for_an_hour_without_an_answer() {
        let (cache, at) = (MeansCache::default(), |s: i64| DateTime::UNIX_EPOCH + Duration::seconds(s));
        let user = |n: u128| UserId(Uuid::from_u128(n));
        cache.remember([(user(1), Some(4.5)), (user(2), None)], at(0));
        let unknown = |now| cache.unknown([1, 2, 3].map(user).into_iter(), at(now));
        assert_eq!((unknown(1), unknown(2)), (vec![user(3)], [1, 2, 3].map(user).to_vec()));
        let mean = |n, now| cache.mean(user(n), at(now));
        assert_eq!((mean(1, 3_599), mean(1, 3_600), mean(2, 1), mean(3, 1)), (Some(4.5), None, None, None));
        cache.remember((0..u128::try_from(MEANS_MAX).unwrap() + 10).map(|n| (user(n), None)), at(1));
        assert!(cache.means().len() <= MEANS_MAX);
    }
}
