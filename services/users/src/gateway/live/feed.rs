//! What the passenger of one ride is shown of its driver, and when. Pure: the caller passes the time.
//!
//! The newest position wins: one that comes while the client does not read, or within a second of the one before, takes the place of
//! the one that waits.

use chrono::{DateTime, Duration, Utc};
use geospatial::newest::{Fix, Newest, Place};
use schemars::JsonSchema;
use serde::Serialize;
use streams::connected_drivers::ConnectedDriver;
use streams::event::rfc3339;
use streams::newest_position::NewestPosition;
use streams::{Position, RideId};

use crate::live_ride::position::LivePosition;
use crate::live_ride::{CurrentRide, Destination};

/// The least time between two frames.
const FRAME_INTERVAL: Duration = Duration::seconds(1);
/// A position that no other followed for so long is stale.
const STALE_AFTER: Duration = Duration::seconds(15);

/// The `data` of a frame `location.live`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct LiveView {
    ride_id: RideId,
    pub(super) location: Position,
    heading_deg: Option<f64>,
    speed_mps: Option<f64>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    recorded_at: DateTime<Utc>,
    /// Seconds, at the usual speed; the session puts in that of the market, or by road.
    pub(super) eta_s: Option<f64>,
    pub(super) eta_to: Destination,
    pub(super) stale: bool,
}

#[derive(Debug)]
pub(crate) struct Feed {
    ride: CurrentRide,
    /// Which position is the newest.
    order: Newest,
    newest: Option<Shown>,
    /// The newest position was not sent.
    is_new: bool,
    /// Positions that were replaced before they were sent.
    superseded: u64,
    /// It was sent as stale.
    is_sent_stale: bool,
    /// When the last frame was sent.
    sent_at: Option<DateTime<Utc>>,
}

#[derive(Debug)]
struct Shown {
    position: NewestPosition,
    /// When it was received.
    since: DateTime<Utc>,
    /// As the driver's pod knows it, which may be ahead of this one.
    eta_s: Option<f64>,
    eta_to: Destination,
}

impl Feed {
    pub(crate) fn new(ride: CurrentRide) -> Self {
        let order = Newest::default();
        Self { ride, order, newest: None, is_new: false, superseded: 0, is_sent_stale: false, sent_at: None }
    }

    pub(crate) fn ride(&self) -> &CurrentRide {
        &self.ride
    }

    /// The same ride after one of its events.
    pub(crate) fn set_ride(&mut self, ride: CurrentRide) {
        self.ride = ride;
    }

    /// A position has just come from the driver's pod.
    pub(crate) fn receive(&mut self, live: LivePosition, now: DateTime<Utc>) {
        let LivePosition { ride_id, position, eta_s, eta_to } = live;
        let fix = Fix::of_position(&position, Some(ride_id));
        if self.order.update(&fix) {
            self.show(Shown { position, since: now, eta_s, eta_to });
        }
    }

    /// location says that this is the newest position.
    pub(crate) fn receive_newest(&mut self, position: NewestPosition, now: DateTime<Utc>) {
        let known = self.order.place().copied();
        let place = Place::of_position(&position, None);
        self.order.restore(place, &position.device);
        if self.order.place().copied() != known {
            let since = position.received_at.min(now);
            self.show(Shown { position, since, eta_s: None, eta_to: self.ride.destination() });
        }
    }

    /// The driver's pod says that this is the newest position; of several devices each pod knows its own.
    pub(crate) fn receive_connected(&mut self, connected: ConnectedDriver, now: DateTime<Utc>) {
        let ConnectedDriver { ride_id, position, .. } = connected;
        if self.order.merge(&position, ride_id) {
            let since = position.received_at.min(now);
            self.show(Shown { position, since, eta_s: None, eta_to: self.ride.destination() });
        }
    }

    /// Whether a position is known, and how long ago it was received.
    pub(crate) fn age(&self, now: DateTime<Utc>) -> Option<Duration> {
        self.newest.as_ref().map(|newest| now - newest.since)
    }

    /// How many positions were replaced before they were sent, since the last call.
    pub(crate) fn take_superseded(&mut self) -> u64 {
        std::mem::take(&mut self.superseded)
    }

    /// When the driver's pod received the newest position.
    pub(crate) fn newest_received_at(&self) -> Option<DateTime<Utc>> {
        self.newest.as_ref().map(|newest| newest.position.received_at)
    }

    fn show(&mut self, newest: Shown) {
        self.superseded += u64::from(self.is_new);
        self.newest = Some(newest);
        self.is_new = true;
    }

    /// When the next frame is due; in the past if it is due now.
    pub(crate) fn due_at(&self) -> Option<DateTime<Utc>> {
        let newest = self.newest.as_ref()?;
        if self.is_new {
            Some(self.sent_at.map_or(newest.since, |at| at + FRAME_INTERVAL))
        } else {
            (!self.is_sent_stale).then_some(newest.since + STALE_AFTER)
        }
    }

    /// The frame that is due now. It counts as sent.
    pub(crate) fn take_due(&mut self, now: DateTime<Utc>) -> Option<LiveView> {
        if self.due_at()? > now {
            return None;
        }
        let Shown { position, since, eta_s, eta_to } = self.newest.as_ref()?;
        let stale = now - *since >= STALE_AFTER;
        (self.is_new, self.is_sent_stale, self.sent_at) = (false, stale, Some(now));
        // Whichever of the two pods has the newer event of the ride is right.
        let to = self.ride.destination().max(*eta_to);
        let eta_s = self.ride.eta_s(&position.location, to).or(if to == *eta_to { *eta_s } else { None });
        Some(LiveView {
            ride_id: self.ride.ride_id,
            location: position.location,
            heading_deg: position.heading_deg,
            speed_mps: position.speed_mps,
            recorded_at: position.recorded_at,
            eta_s,
            eta_to: to,
            stale,
        })
    }
}

#[cfg(test)]
mod tests {
    use streams::{RideStatus, UserId};
    use uuid::Uuid;

    use super::*;
    use crate::live_ride::Places;

    fn at(second: f64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_772_352_000, 0).unwrap() + Duration::milliseconds((second * 1e3) as i64)
    }

    fn ride(status: RideStatus) -> CurrentRide {
        let [pickup, dropoff] = [60.0, 61.0].map(|lat| Position { lat, lng: 10.0 });
        CurrentRide {
            ride_id: RideId(Uuid::from_u128(7)),
            driver_id: UserId(Uuid::from_u128(1)),
            passenger_id: UserId(Uuid::from_u128(2)),
            version: 1,
            status,
            places: Some(Places { pickup, dropoff }),
        }
    }

    fn feed() -> Feed {
        Feed::new(ride(RideStatus::Pickup))
    }

    /// A point measured and received at `second`, at a latitude that tells it from others.
    fn point(device: &str, second: f64) -> NewestPosition {
        NewestPosition {
            location: Position { lat: 60.0 + second / 1e4, lng: 10.0 },
            heading_deg: None,
            speed_mps: Some(3.0),
            recorded_at: at(second),
            received_at: at(second),
            device: device.to_owned(),
            ride_device: device == "car",
            device_at: at(second),
            is_beacon: false,
        }
    }

    /// Of the driver's phone.
    fn beacon(second: f64) -> NewestPosition {
        NewestPosition { is_beacon: true, ride_device: false, ..point("car", second) }
    }

    fn live(position: NewestPosition) -> LivePosition {
        LivePosition::new(&ride(RideStatus::Pickup), position)
    }

    /// The second in which the position of the frame that is due was measured, and whether it is stale.
    fn taken(feed: &mut Feed, now: f64) -> Option<(f64, bool)> {
        feed.take_due(at(now)).map(|view| ((view.recorded_at - at(0.0)).as_seconds_f64(), view.stale))
    }

    fn due(feed: &Feed) -> Option<f64> {
        feed.due_at().map(|due_at| (due_at - at(0.0)).as_seconds_f64())
    }

    #[test]
    fn the_newest_is_sent_at_once_and_then_each_second() {
        let mut feed = feed();
        assert_eq!((due(&feed), taken(&mut feed, 0.0)), (None, None));
        feed.receive(live(point("car", 1.0)), at(1.0));
        assert_eq!(taken(&mut feed, 1.0), Some((1.0, false)));
        for second in [1.25, 1.5, 1.75] {
            feed.receive(live(point("car", second)), at(second));
            assert_eq!(taken(&mut feed, second), None);
        }
        assert_eq!(due(&feed), Some(2.0));
        assert_eq!(taken(&mut feed, 2.0), Some((1.75, false)));
        // A client that does not read for a while gets the newest alone.
        for second in 3..9 {
            feed.receive(live(point("car", second.into())), at(second.into()));
        }
        assert_eq!((taken(&mut feed, 9.0), taken(&mut feed, 9.0)), (Some((8.0, false)), None));
        assert_eq!((feed.take_superseded(), feed.take_superseded()), (7, 0), "1.25, 1.5, and 3 to 7");
        assert_eq!(feed.newest_received_at(), Some(at(8.0)));
    }

    #[test]
    fn after_15_s_without_a_point_it_is_stale_once() {
        let mut feed = feed();
        feed.receive(live(point("car", 1.0)), at(1.0));
        assert_eq!(taken(&mut feed, 1.0), Some((1.0, false)));
        assert_eq!(due(&feed), Some(16.0));
        assert_eq!((taken(&mut feed, 15.9), taken(&mut feed, 16.0)), (None, Some((1.0, true))));
        assert_eq!((due(&feed), taken(&mut feed, 99.0)), (None, None));
        feed.receive(live(point("car", 99.0)), at(99.0));
        assert_eq!(taken(&mut feed, 99.0), Some((99.0, false)));
        assert_eq!(due(&feed), Some(114.0));
    }

    #[test]
    fn what_location_knows_is_shown_first_and_never_hides_a_point() {
        // A beacon of ten minutes ago.
        let mut feed = feed();
        feed.receive_newest(beacon(-600.0), at(0.0));
        assert_eq!((taken(&mut feed, 0.0), due(&feed)), (Some((-600.0, true)), None));
        // The phone is a minute behind.
        let slow =
            |received_at: f64, second: f64| NewestPosition { received_at: at(received_at), ..point("car", second) };
        feed.receive(live(slow(1.0, -59.0)), at(1.0));
        assert_eq!(taken(&mut feed, 1.0), Some((-59.0, false)));
        // The answer of location comes after the point that it knows.
        for answer in [slow(1.0, -59.0), slow(0.9, -60.0), beacon(0.5)] {
            feed.receive_newest(answer, at(2.0));
        }
        assert_eq!(taken(&mut feed, 3.0), None);
        feed.receive(live(slow(4.0, -56.0)), at(4.0));
        assert_eq!(taken(&mut feed, 4.0), Some((-56.0, false)));
    }

    #[test]
    fn a_point_of_the_future_holds_up_nothing() {
        let mut feed = feed();
        // Its time is cut to that of its reception.
        let future = NewestPosition { device_at: at(56.0), ..point("car", 1.0) };
        feed.receive(live(future), at(1.0));
        assert_eq!(taken(&mut feed, 1.0), Some((1.0, false)));
        feed.receive(live(point("car", 2.0)), at(2.0));
        assert_eq!(taken(&mut feed, 2.0), Some((2.0, false)));
        // What was collected before stays behind.
        feed.receive(live(point("car", 1.5)), at(3.0));
        assert_eq!(taken(&mut feed, 3.0), None);
    }

    #[test]
    fn another_device_counts_once_the_device_of_the_ride_is_silent() {
        let mut feed = feed();
        feed.receive(live(point("depot", 1.0)), at(1.0));
        let of_ride = NewestPosition { received_at: at(1.2), ..point("car", 0.0) };
        feed.receive(live(of_ride), at(1.2));
        assert_eq!(taken(&mut feed, 1.2), Some((0.0, false)), "that of the ride takes over at once");
        for second in [2.0, 15.0, 31.0] {
            feed.receive(live(point("depot", second)), at(second));
            assert_eq!(taken(&mut feed, second).filter(|(_, stale)| !stale), None);
        }
        feed.receive(live(point("depot", 31.5)), at(31.5));
        assert_eq!(taken(&mut feed, 32.0), Some((31.5, false)));
        feed.receive(live(point("car", 33.0)), at(33.0));
        assert_eq!(taken(&mut feed, 33.0), Some((33.0, false)));
    }

    #[test]
    fn the_eta_is_to_the_pickup_until_the_start_whichever_pod_knows_of_it_first() {
        let mut feed = feed();
        let view = |feed: &mut Feed, position: LivePosition, second: f64| {
            feed.receive(position, at(second));
            let view = feed.take_due(at(second)).unwrap();
            (view.eta_to, view.eta_s.map(|eta_s| eta_s.round()))
        };
        assert_eq!(view(&mut feed, live(point("car", 1.0)), 1.0), (Destination::Pickup, Some(2.0)));
        let started = ride(RideStatus::Started);
        let ahead = LivePosition::new(&started, point("car", 2.0));
        assert_eq!(view(&mut feed, ahead, 2.0), (Destination::Dropoff, Some(20_646.0)));
        feed.set_ride(started);
        assert_eq!(view(&mut feed, live(point("car", 3.0)), 3.0), (Destination::Dropoff, Some(20_644.0)));
        // A row of the version before has no places: the driver's pod knows.
        feed.set_ride(CurrentRide { places: None, ..ride(RideStatus::Pickup) });
        assert_eq!(view(&mut feed, live(point("car", 4.0)), 4.0), (Destination::Pickup, Some(8.0)));
        feed.set_ride(CurrentRide { places: None, ..started });
        assert_eq!(view(&mut feed, live(point("car", 5.0)), 5.0), (Destination::Dropoff, None));
    }
}
