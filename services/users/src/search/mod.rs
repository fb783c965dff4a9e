//! Passengers' searches that are open, at most one each. It offers nothing: match receives a search as an event.

pub(crate) mod ending;
pub(crate) mod rows;

use chrono::{DateTime, Duration, Utc};
use streams::event::UserFinder;
use streams::{Event, RequestId, UserId};

use crate::trip::Trip;

/// A search and its passenger.
pub(crate) type SearchKey = (RequestId, UserId);

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Search {
    pub(crate) request_id: RequestId,
    pub(crate) user_id: UserId,
    pub(crate) trip: Trip,
    pub(crate) began_at: DateTime<Utc>,
    pub(crate) expires_at: DateTime<Utc>,
}

/// A pickup that is moved by less stays where it is: a pin that trembles under a finger takes no offer away.
const PIN_M: f64 = 25.0;

impl Search {
    /// Whether a wish for `trip` is a repeat of this search.
    pub(crate) fn is_of(&self, trip: &Trip) -> bool {
        self.trip.vehicle_type == trip.vehicle_type
            && self.trip.dropoff == trip.dropoff
            && (self.trip.pickup == trip.pickup || self.trip.pickup.distance_m(&trip.pickup) < PIN_M)
    }

    pub(crate) fn key(&self) -> SearchKey {
        (self.request_id, self.user_id)
    }

    pub(crate) fn began(&self) -> Event {
        Event::UserFinder(self.finder(self.began_at))
    }

    /// The event of its end. Its time is later than that of its beginning, also within one step of the clock: message ids
    /// contain the time.
    pub(crate) fn ended(&self, now: DateTime<Utc>) -> Event {
        let ended_at = now.max(self.began_at + Duration::microseconds(1));
        Event::UserFinder(UserFinder { active: false, ..self.finder(ended_at) })
    }

    fn finder(&self, recorded_at: DateTime<Utc>) -> UserFinder {
        let Trip { pickup, dropoff, vehicle_type } = self.trip;
        let Self { request_id, user_id, .. } = *self;
        UserFinder { request_id, user_id, active: true, pickup, dropoff, vehicle_type, recorded_at }
    }
}
