//! Passengers' searches that are open, at most one each. One that became a ride goes on if the driver cancels before the start. It offers nothing: match receives a search as an event.

pub(crate) mod ending;
pub(crate) mod rows;

use chrono::{DateTime, Duration, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use streams::event::{CancelledRide, RideEvent, UserFinder};
use streams::{Event, Position, RequestId, UserId};

use crate::trip::Trip;

/// So long before its end a search's passenger learns that it is near.
pub(crate) const NEAR_END: Duration = Duration::seconds(30);

/// An entry of the passenger's mailbox that no stream has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NearEnd {
    pub(crate) event_id: String,
    pub(crate) time: DateTime<Utc>,
    pub(crate) body: String,
}

/// Its body.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NearEndBody {
    #[serde(flatten)]
    finder: UserFinder,
    /// Until the search ends by itself, seconds.
    #[schemars(range(min = 0))]
    expires_in_s: i64,
}

/// A search and its passenger.
pub(crate) type SearchKey = (RequestId, UserId);

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Search {
    pub(crate) request_id: RequestId,
    pub(crate) user_id: UserId,
    pub(crate) trip: Trip,
    pub(crate) began_at: DateTime<Utc>,
    pub(crate) expires_at: DateTime<Utc>,
    /// The market of the pickup when the search began, wherever borders are moved later. `None`: a process of the version before began it.
    pub(crate) market_id: Option<String>,
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

    /// The same, begun after the search before it ended: a reader that sorts by time must see that end first.
    pub(crate) fn begun_after(self, ended_at: DateTime<Utc>) -> Self {
        let began_at = ended_at + Duration::microseconds(1);
        Self { began_at, expires_at: began_at + (self.expires_at - self.began_at), ..self }
    }

    pub(crate) fn key(&self) -> SearchKey {
        (self.request_id, self.user_id)
    }

    pub(crate) fn began(&self) -> Event {
        Event::UserFinder(self.opened())
    }

    /// The body of the event with which it began.
    pub(crate) fn opened(&self) -> UserFinder {
        self.finder(self.began_at)
    }

    /// The search that goes on after `cancelled`, if one does, in the same market. It has its whole time again, and began a moment after the cancellation.
    pub(crate) fn continued(
        cancelled: &RideEvent,
        now: DateTime<Utc>,
        ttl: impl Fn(Option<&str>, &Position) -> Duration,
    ) -> Option<Self> {
        let request_id = cancelled.request_id.filter(|_| cancelled.search_continues == Some(true))?;
        let RideEvent { pickup, dropoff, vehicle_type, .. } = *cancelled;
        let began_at = now.max(cancelled.occurred_at + Duration::microseconds(1));
        let trip = Trip { pickup, dropoff, vehicle_type };
        let market_id = cancelled.market_id.clone();
        let expires_at = began_at + ttl(market_id.as_deref(), &pickup);
        Some(Self { request_id, user_id: cancelled.passenger_id, trip, began_at, expires_at, market_id })
    }

    /// The event of a search that goes on after this ride.
    pub(crate) fn goes_on(&self, cancelled: &RideEvent) -> Event {
        let RideEvent { ride_id, match_id, driver_id, .. } = *cancelled;
        let continues = Some(CancelledRide { ride_id, match_id, driver_id });
        Event::UserFinder(UserFinder { continues, ..self.finder(self.began_at) })
    }

    /// What its passenger receives [`NEAR_END`] before its end: the search as it is, and how long it lasts.
    pub(crate) fn near_end(&self) -> NearEnd {
        let noticed_at = self.expires_at - NEAR_END;
        let finder = self.finder(noticed_at);
        let event = Event::UserFinder(finder.clone());
        let body = NearEndBody { finder, expires_in_s: NEAR_END.num_seconds() };
        let body = serde_json::to_string(&body).expect("a search is JSON");
        // Not the id of an event: an event of the search may happen at the same time.
        let event_id = format!("{}.near_end", event.message_id(noticed_at));
        NearEnd { event_id, time: noticed_at, body }
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
        let continues = None;
        UserFinder {
            request_id,
            user_id,
            active: true,
            pickup,
            dropoff,
            vehicle_type,
            market_id: self.market_id.clone(),
            expires_at: Some(self.expires_at),
            recorded_at,
            continues,
        }
    }
}

#[cfg(test)]
mod tests {
    use streams::{Position, VehicleType};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_notice_of_a_near_end_is_the_search_with_its_end() {
        let began_at = DateTime::UNIX_EPOCH;
        let place = Position { lat: 1.0, lng: 2.0 };
        let search = Search {
            request_id: RequestId(Uuid::from_u128(1)),
            user_id: UserId(Uuid::from_u128(2)),
            trip: Trip { pickup: place, dropoff: place, vehicle_type: VehicleType::Car },
            began_at,
            expires_at: began_at + Duration::seconds(300),
            market_id: Some("here".to_owned()),
        };
        let notice = search.near_end();
        assert_eq!(notice.time, began_at + Duration::seconds(270));
        assert_eq!(notice.event_id, format!("user.finder-{}-270000000.near_end", search.request_id));
        let body: serde_json::Value = serde_json::from_str(&notice.body).unwrap();
        assert_eq!((&body["active"], &body["expires_in_s"]), (&true.into(), &30.into()));
        assert_eq!(body["expires_at"], "1970-01-01T00:05:00.000000Z");
        assert_eq!(body["recorded_at"], "1970-01-01T00:04:30.000000Z");
    }
}
