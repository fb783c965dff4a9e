//! People as others are shown them, remembered for a few seconds in one process. It knows no table and no bus.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Duration, Utc};
use streams::UserId;
use streams::parties::{DriverView, PassengerView};

use crate::account::Driver;

/// A change reaches every pod at once by a message; if that is lost, after so long.
const LIFE: Duration = Duration::seconds(10);
/// The most people that are remembered: about 4 MB.
const PEOPLE_MAX: usize = 10_000;

/// What others may be shown of a user.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Person {
    pub(crate) name: Option<String>,
    pub(crate) driver: Option<Driver>,
    /// The mean of their ratings, which rides knows: `None` in what is remembered here.
    pub(crate) rating: Option<f64>,
}

impl Person {
    /// `None` if the user is no driver.
    pub(crate) fn as_driver(&self) -> Option<DriverView> {
        let driver = self.driver.as_ref()?;
        Some(DriverView {
            name: self.name.clone(),
            vehicle_type: driver.vehicle_type,
            plate: driver.plate.clone(),
            make: driver.make.clone(),
            model: driver.model.clone(),
            color: driver.color.clone(),
            rating: self.rating,
        })
    }

    pub(crate) fn as_passenger(&self) -> PassengerView {
        PassengerView { name: self.name.clone(), rating: self.rating }
    }
}

/// A person, or nobody, with the time when that was read.
type Remembered = (Option<Arc<Person>>, DateTime<Utc>);

#[derive(Debug, Default)]
pub(crate) struct PeopleCache(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    people: BTreeMap<UserId, Remembered>,
    /// How often somebody was forgotten because of a change.
    changes: u64,
}

/// The beginning of a read of rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading(u64);

impl PeopleCache {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `Some(None)`: there is no such user.
    #[allow(clippy::option_option)]
    pub(crate) fn known(&self, user: UserId, now: DateTime<Utc>) -> Option<Option<Arc<Person>>> {
        let inner = self.inner();
        let (person, read_at) = inner.people.get(&user)?;
        (now - *read_at < LIFE).then(|| person.clone())
    }

    pub(crate) fn begin_read(&self) -> Reading {
        Reading(self.inner().changes)
    }

    /// Rows that were read before a change may be older than it, and are not remembered.
    pub(crate) fn remember(&self, user: UserId, person: Option<Arc<Person>>, reading: Reading, now: DateTime<Utc>) {
        let mut inner = self.inner();
        if reading.0 != inner.changes {
            return;
        }
        if inner.people.len() >= PEOPLE_MAX {
            inner.people.retain(|_, (_, read_at)| now - *read_at < LIFE);
        }
        if inner.people.len() >= PEOPLE_MAX {
            inner.people.clear();
        }
        inner.people.insert(user, (person, now));
    }

    pub(crate) fn forget(&self, user: UserId) {
        let mut inner = self.inner();
        inner.people.remove(&user);
        inner.changes += 1;
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_person_is_remembered_for_a_while_and_never_from_before_a_change() {
        let (cache, at) = (PeopleCache::default(), |s: i64| DateTime::UNIX_EPOCH + Duration::seconds(s));
        let user = |n: u128| UserId(Uuid::from_u128(n));
        let ann = Some(Arc::new(Person { name: Some("Ann".to_owned()), driver: None, rating: None }));
        cache.remember(user(1), ann.clone(), cache.begin_read(), at(0));
        cache.remember(user(2), None, cache.begin_read(), at(0));
        assert_eq!(cache.known(user(1), at(9)), Some(ann.clone()));
        assert_eq!(cache.known(user(2), at(9)), Some(None));
        assert_eq!((cache.known(user(1), at(10)), cache.known(user(3), at(0))), (None, None));
        let reading = cache.begin_read();
        cache.forget(user(1));
        cache.remember(user(1), ann.clone(), reading, at(1));
        assert_eq!(cache.known(user(1), at(1)), None, "it was read before the change");
        cache.remember(user(1), ann.clone(), cache.begin_read(), at(1));
        assert_eq!(cache.known(user(1), at(1)), Some(ann));
        for n in 0..u128::try_from(PEOPLE_MAX).unwrap() + 10 {
            cache.remember(user(n), None, cache.begin_read(), at(2));
        }
        assert!(cache.inner().people.len() <= PEOPLE_MAX);
    }
}
