//! The newest place of one driver: which of two positions is newer, and which of several devices counts. Pure. match, location and
//! the sessions of passengers share it.
//!
//! - **Within a device** a position is newer if it was received later and measured later by the device's own clock, or if it was
//!   measured later by the server's clock, as users corrected it. No position counts as measured after its reception, so that one
//!   of the future holds nobody.
//! - **Between devices** one counts at a time. The driver's device is the one that accepted the live ride or, between rides, the one
//!   that sent the newest active beacon. Another one's positions count once the one that counts was silent for [`SILENCE_S`].
//! - **A beacon** is ordered by its arrival alone, because it carries no time of a device.

use chrono::{DateTime, Duration, Utc};
use streams::event::{LocationUpdate, UserBeacon};
use streams::newest_position::NewestPosition;
use streams::{Position, RideId};

/// After this silence of the device that counts, another one of the same driver counts, in seconds.
pub const SILENCE_S: i64 = 30;
/// A position measured longer than this before a beacon's arrival is not newer than the beacon, although it came later: it was
/// waiting in the device. Up to here it may be a clock that is behind and not yet known.
const WAITED_MAX: Duration = Duration::seconds(120);
/// The same if its time is certain.
const WAITED_CERTAINLY_MAX: Duration = Duration::seconds(2);

/// A position as it was received.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fix<'a> {
    pub position: Position,
    pub speed_mps: Option<f64>,
    pub heading_deg: Option<f64>,
    /// The driver's live ride.
    pub ride_id: Option<RideId>,
    /// The device's name; empty for the unnamed one and for foreign producers.
    pub device: &'a str,
    /// Whether this device accepted the live ride.
    pub ride_device: bool,
    /// By the device's own clock.
    pub device_at: DateTime<Utc>,
    /// By the server's clock, as far as users knows the device's.
    pub recorded_at: DateTime<Utc>,
    /// Whether the device said when it sent the position: what looks old is old then, and no clock that nobody knows.
    pub is_time_certain: bool,
    /// By the server's clock.
    pub received_at: DateTime<Utc>,
}

impl<'a> Fix<'a> {
    /// `stored_at` is when the stream stored the event: it stands in for the reception of a foreign producer's.
    pub fn of(update: &'a LocationUpdate, stored_at: DateTime<Utc>) -> Self {
        let from = update.reception.as_ref();
        Self {
            position: update.location,
            speed_mps: update.speed_mps,
            heading_deg: update.heading_deg,
            ride_id: update.ride_id,
            device: from.map_or("", |from| from.device.as_str()),
            ride_device: from.is_some_and(|from| from.ride_device),
            device_at: from.map_or(update.recorded_at, |from| from.device_at),
            recorded_at: update.recorded_at,
            is_time_certain: from.is_some_and(|from| from.sent_at.is_some()),
            received_at: from.map_or(stored_at, |from| from.received_at),
        }
    }
}

impl<'a> Fix<'a> {
    /// A point as another process knows it.
    pub fn of_position(position: &'a NewestPosition, ride_id: Option<RideId>) -> Self {
        let NewestPosition { location, heading_deg, speed_mps, recorded_at, received_at, .. } = *position;
        Self {
            position: location,
            speed_mps,
            heading_deg,
            ride_id,
            device: &position.device,
            ride_device: position.ride_device,
            device_at: position.device_at,
            recorded_at,
            is_time_certain: false,
            received_at,
        }
    }
}

/// What is known of a driver's place. [`Default`] knows nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Newest {
    place: Option<Place>,
    /// The newest measurement of the device that counts.
    measured: Option<Measured>,
    /// The device that counts.
    device: Box<str>,
    /// When something was last received from it.
    received_last_at: Option<DateTime<Utc>>,
    /// The device that sent the newest active beacon, and when that was recorded.
    beacon: Option<(DateTime<Utc>, Option<Box<str>>)>,
}

/// Where a driver is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    pub position: Position,
    pub speed_mps: Option<f64>,
    pub heading_deg: Option<f64>,
    /// The live ride of the position.
    pub ride_id: Option<RideId>,
    pub ride_device: bool,
    /// By the device's own clock; of a beacon, when it was received.
    pub device_at: DateTime<Utc>,
    /// When the driver was there, by the server's clock: not later than `received_at`.
    pub recorded_at: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    pub is_beacon: bool,
}

/// What [`Newest`] knows of a driver, without devices and measurements: enough to go on with beacons, but not with positions.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Summary {
    /// With the time of its reception, and whether a beacon brought it.
    pub place: Option<(Position, DateTime<Utc>, bool)>,
    pub received_last_at: Option<DateTime<Utc>>,
    pub beacon_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Measured {
    device_at: DateTime<Utc>,
    recorded_at: DateTime<Utc>,
    received_at: DateTime<Utc>,
}

impl Measured {
    fn is_older_than(&self, fix: &Measured) -> bool {
        fix.received_at > self.received_at && fix.device_at > self.device_at || fix.recorded_at > self.recorded_at
    }
}

impl Place {
    /// That of a position as services tell it each other; `ride_id` is the ride of a point.
    pub fn of_position(position: &NewestPosition, ride_id: Option<RideId>) -> Self {
        let NewestPosition { location, heading_deg, speed_mps, recorded_at, received_at, .. } = *position;
        Self {
            position: location,
            speed_mps,
            heading_deg,
            ride_id: ride_id.filter(|_| !position.is_beacon),
            ride_device: position.ride_device,
            device_at: position.device_at,
            recorded_at,
            received_at,
            is_beacon: position.is_beacon,
        }
    }
}

impl Newest {
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    pub fn position(&self) -> Option<Position> {
        self.place.map(|place| place.position)
    }

    /// The newest place as services say it to each other.
    pub fn newest_position(&self) -> Option<NewestPosition> {
        let place = self.place?;
        Some(NewestPosition {
            location: place.position,
            heading_deg: place.heading_deg,
            speed_mps: place.speed_mps,
            recorded_at: place.recorded_at,
            received_at: place.received_at,
            device: self.device.to_string(),
            ride_device: place.ride_device,
            device_at: place.device_at,
            is_beacon: place.is_beacon,
        })
    }

    /// Takes into account what another process knows of the driver's place: a point by the rules for points, a beacon's place by its
    /// arrival. True if it is the newest place now.
    pub fn merge(&mut self, position: &NewestPosition, ride_id: Option<RideId>) -> bool {
        if !position.is_beacon {
            return self.update(&Fix::of_position(position, ride_id));
        }
        let is_newer = self.place.is_none_or(|known| known.received_at < position.received_at);
        self.restore(Place::of_position(position, None), &position.device);
        is_newer
    }

    /// The device that counts.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The device that sent the newest active beacon.
    pub fn beacon_device(&self) -> Option<&str> {
        self.beacon.as_ref().and_then(|(_, device)| device.as_deref())
    }

    /// When something was last received of the driver, of any kind.
    pub fn received_at(&self) -> Option<DateTime<Utc>> {
        let beacon_at = self.beacon.as_ref().map(|(at, _)| *at);
        self.received_last_at.max(beacon_at).max(self.place.map(|place| place.received_at))
    }

    pub fn summary(&self) -> Summary {
        Summary {
            place: self.place.map(|place| (place.position, place.received_at, place.is_beacon)),
            received_last_at: self.received_last_at,
            beacon_at: self.beacon.as_ref().map(|(at, _)| *at),
        }
    }

    /// Beacons change it as they change the one of the summary.
    pub fn from_summary(summary: &Summary) -> Self {
        let place = |(position, at, is_beacon)| Place {
            position,
            speed_mps: None,
            heading_deg: None,
            ride_id: None,
            ride_device: false,
            device_at: at,
            recorded_at: at,
            received_at: at,
            is_beacon,
        };
        Self {
            place: summary.place.map(place),
            measured: None,
            device: Box::default(),
            received_last_at: summary.received_last_at,
            beacon: summary.beacon_at.map(|at| (at, None)),
        }
    }

    /// The time of the newest beacon that was stored, and the device of the newest active one.
    pub fn restore_beacon(&mut self, recorded_at: DateTime<Utc>, device: Option<&str>) {
        if self.beacon.as_ref().is_none_or(|(at, _)| *at < recorded_at) {
            self.beacon = Some((recorded_at, device.map(Into::into)));
        }
    }

    /// What was stored of a driver's place, of the device that counted. It stays unless something newer is known.
    pub fn restore(&mut self, place: Place, device: &str) {
        if self.place.is_none_or(|known| known.received_at < place.received_at) {
            self.place = Some(place);
            self.measured = (!place.is_beacon).then_some(Measured {
                device_at: place.device_at,
                recorded_at: place.recorded_at,
                received_at: place.received_at,
            });
            self.device = device.into();
            self.received_last_at = Some(place.received_at);
        }
    }

    /// Takes a position into account. True if it is the newest place now.
    pub fn update(&mut self, fix: &Fix<'_>) -> bool {
        // Nothing was measured after its reception.
        let recorded_at = fix.recorded_at.min(fix.received_at);
        let new = Measured { device_at: fix.device_at, recorded_at, received_at: fix.received_at };
        let counts = if self.place.is_none() {
            true
        } else if *self.device == *fix.device {
            self.measured.is_none_or(|known| known.is_older_than(&new))
        } else {
            let silence = self.received_last_at.map(|at| fix.received_at - at);
            let takes_over = self.is_of_driver(fix) || silence.is_none_or(|s| s > Duration::seconds(SILENCE_S));
            // What waited in the device says nothing about now, unless nothing newer is known.
            let is_fresh = fix.received_at - recorded_at <= Duration::seconds(SILENCE_S)
                || self.place.is_some_and(|place| place.recorded_at < recorded_at);
            takes_over && is_fresh
        };
        let waited_max = if fix.is_time_certain { WAITED_CERTAINLY_MAX } else { WAITED_MAX };
        let counts = counts && self.is_newer_than_beacon(&new, waited_max);
        if *self.device == *fix.device || counts {
            self.received_last_at = self.received_last_at.max(Some(fix.received_at));
        }
        if !counts {
            return false;
        }
        if *self.device != *fix.device {
            self.device = fix.device.into();
            self.received_last_at = Some(fix.received_at);
        }
        self.measured = Some(new);
        self.place = Some(Place {
            position: fix.position,
            speed_mps: fix.speed_mps,
            heading_deg: fix.heading_deg,
            ride_id: fix.ride_id,
            ride_device: fix.ride_device,
            device_at: fix.device_at,
            recorded_at,
            received_at: fix.received_at,
            is_beacon: false,
        });
        true
    }

    /// Takes a beacon into account, which the stream stored at `stored_at`. True if its place is the newest now. One that repeats an
    /// older place, because a socket opened or closed, changes none.
    pub fn beacon(&mut self, beacon: &UserBeacon, stored_at: DateTime<Utc>) -> bool {
        let is_newest = self.beacon.as_ref().is_none_or(|(at, _)| *at <= beacon.recorded_at);
        if is_newest {
            let device = match (&beacon.device, beacon.active) {
                (Some(device), true) => Some(device.as_str().into()),
                _ => self.beacon.take().and_then(|(_, device)| device),
            };
            self.beacon = Some((beacon.recorded_at, device));
        }
        let located_at = beacon.located_at.unwrap_or(beacon.recorded_at).min(stored_at);
        let is_older =
            |known: &Place| located_at < known.received_at || located_at == known.received_at && !known.is_beacon;
        if self.place.as_ref().is_some_and(is_older) {
            return false;
        }
        if let Some(device) = beacon.device.as_deref() {
            self.device = device.into();
        }
        self.measured = None;
        self.received_last_at = self.received_last_at.max(Some(located_at));
        self.place = Some(Place {
            position: beacon.location,
            speed_mps: None,
            heading_deg: None,
            ride_id: None,
            ride_device: false,
            device_at: located_at,
            recorded_at: located_at,
            received_at: located_at,
            is_beacon: true,
        });
        true
    }

    /// Whether it comes from the device that the driver uses.
    fn is_of_driver(&self, fix: &Fix<'_>) -> bool {
        match fix.ride_id {
            Some(_) => fix.ride_device,
            None => self.beacon_device().is_none_or(|device| device == fix.device),
        }
    }

    fn is_newer_than_beacon(&self, new: &Measured, waited_max: Duration) -> bool {
        let beacon = self.place.filter(|place| place.is_beacon);
        beacon.is_none_or(|beacon| {
            new.received_at >= beacon.received_at && beacon.received_at - new.recorded_at <= waited_max
        })
    }
}

#[cfg(test)]
mod tests {
    use streams::{UserId, VehicleType};
    use uuid::Uuid;

    use super::*;

    fn at(seconds: f64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::milliseconds(1_000_000 + (seconds * 1e3).round() as i64)
    }

    fn north(place: i32) -> Position {
        Position { lat: f64::from(place) / 100.0, lng: 0.0 }
    }

    /// A fix at `place` of `device`, received at a second, measured by the device's clock at another; users corrected it by `offset`.
    fn fix(device: &str, place: i32, received: f64, device_at: f64, offset: f64) -> Fix<'_> {
        let (received_at, recorded_at) = (at(received), at((device_at + offset).min(received)));
        Fix {
            position: north(place),
            speed_mps: None,
            heading_deg: None,
            ride_id: None,
            device,
            ride_device: false,
            device_at: at(device_at),
            is_time_certain: false,
            recorded_at,
            received_at,
        }
    }

    fn of_ride(device: &str, place: i32, received: f64, ride_device: bool) -> Fix<'_> {
        Fix { ride_id: Some(RideId(Uuid::nil())), ride_device, ..fix(device, place, received, received, 0.0) }
    }

    fn beacon(device: Option<&str>, place: i32, recorded: f64, located: f64) -> UserBeacon {
        UserBeacon {
            user_id: UserId(Uuid::nil()),
            active: true,
            vehicle_type: VehicleType::Car,
            location: north(place),
            recorded_at: at(recorded),
            located_at: Some(at(located)),
            device: device.map(str::to_owned),
        }
    }

    fn hear(newest: &mut Newest, beacon: UserBeacon) -> bool {
        newest.beacon(&beacon, beacon.recorded_at)
    }

    fn place_of(newest: &Newest) -> i32 {
        (newest.position().unwrap().lat * 100.0).round() as i32
    }

    #[test]
    fn within_a_device_its_own_order_decides_whatever_its_clock_says() {
        for offset in [0.0, -20.0, 300.0, -3_600.0] {
            let mut newest = Newest::default();
            let device = |t: f64| t + offset;
            assert!(newest.update(&fix("", 1, 10.1, device(10.0), 0.0)));
            assert!(newest.update(&fix("", 2, 14.1, device(14.0), 0.0)));
            // Late, repeated, out of order.
            assert!(!newest.update(&fix("", 9, 14.2, device(12.0), 0.0)) || offset > 0.0, "{offset}");
            assert!(newest.update(&fix("", 3, 18.1, device(18.0), 0.0)));
            assert!(!newest.update(&fix("", 2, 14.1, device(14.0), 0.0)));
            assert_eq!(place_of(&newest), 3, "{offset}");
            // Another pod does not know the clock, or knows it only now.
            assert!(newest.update(&fix("", 4, 22.1, device(22.0), -offset)));
            assert!(newest.update(&fix("", 5, 26.1, device(26.0), 0.0)));
            assert_eq!(place_of(&newest), 5, "{offset}");
        }
    }

    #[test]
    fn a_fix_of_the_future_holds_nobody() {
        let mut newest = Newest::default();
        newest.update(&fix("", 1, 10.0, 10.0, 0.0));
        let future = fix("", 0, 14.0, 69.0, 0.0);
        assert!(newest.update(&future));
        for n in 0..3 {
            assert!(newest.update(&fix("", 2 + n, 14.5 + f64::from(n) / 2.0, 14.4 + f64::from(n) / 2.0, 0.0)));
        }
        assert!(!newest.update(&future), "delivered again");
        assert_eq!(place_of(&newest), 4);
        // The same of a foreign producer, whose message says nothing of its reception.
        let foreign = |place, stored: f64, recorded: f64| {
            let update = LocationUpdate {
                user_id: UserId(Uuid::nil()),
                ride_id: None,
                location: north(place),
                accuracy_m: None,
                speed_mps: None,
                heading_deg: None,
                recorded_at: at(recorded),
                reception: None,
            };
            (update, at(stored))
        };
        let mut newest = Newest::default();
        for (place, stored, recorded, counts) in
            [(1, 10.0, 10.0, true), (0, 14.0, 69.0, true), (2, 18.0, 18.0, true), (9, 19.0, 12.0, false)]
        {
            let (update, stored_at) = foreign(place, stored, recorded);
            assert_eq!(newest.update(&Fix::of(&update, stored_at)), counts, "{place}");
        }
    }

    #[test]
    fn a_beacon_is_ordered_by_arrival_and_one_that_repeats_a_place_moves_nobody() {
        let mut newest = Newest::default();
        assert!(hear(&mut newest, beacon(Some(""), 1, 10.0, 10.0)));
        // The clock is 20 s behind, and nothing shows it yet.
        assert!(newest.update(&fix("", 2, 10.1, -9.9, 0.0)));
        assert!(newest.update(&fix("", 3, 10.2, -9.8, 0.0)));
        // The socket closes and opens.
        assert!(!hear(&mut newest, beacon(Some(""), 1, 11.0, 10.0)));
        assert!(!hear(&mut newest, beacon(Some(""), 1, 12.0, 10.0)));
        assert_eq!(place_of(&newest), 3);
        // The driver says where she is, after a fix of the future and before late points of yesterday.
        newest.update(&fix("", 0, 13.0, 60.0, 0.0));
        assert!(hear(&mut newest, beacon(Some(""), 4, 14.0, 14.0)));
        assert!(!newest.update(&fix("", 5, 15.0, -40_000.0, 0.0)));
        assert!(!newest.update(&fix("", 3, 10.2, -9.8, 0.0)), "received before it");
        assert_eq!(place_of(&newest), 4);
        assert!(newest.update(&fix("", 6, 18.0, -2.0, 0.0)));
        // A beacon that overtook a point, or was overtaken by it.
        assert!(!hear(&mut newest, beacon(Some(""), 7, 17.0, 17.0)));
        assert_eq!(place_of(&newest), 6);
    }

    #[test]
    fn another_device_counts_once_the_drivers_was_silent_for_30_s() {
        let mut newest = Newest::default();
        hear(&mut newest, beacon(Some("phone"), 1, 0.0, 0.0));
        newest.update(&fix("phone", 2, 4.0, 4.0, 0.0));
        assert!(!newest.update(&fix("tablet", 9, 5.0, 5.0, 0.0)));
        assert!(!newest.update(&fix("tablet", 9, 34.0, 34.0, 0.0)));
        assert!(newest.update(&fix("tablet", 9, 34.1, 34.1, 0.0)));
        assert!(newest.update(&fix("tablet", 10, 40.0, 40.0, 0.0)));
        // What the phone kept does not bring it back, what it measures now does.
        assert!(!newest.update(&fix("phone", 3, 50.0, 8.0, 0.0)));
        assert!(newest.update(&fix("phone", 4, 51.0, 50.9, 0.0)));
        assert!(!newest.update(&fix("tablet", 10, 52.0, 52.0, 0.0)));
        // The driver goes on with the tablet: at once.
        assert!(hear(&mut newest, beacon(Some("tablet"), 11, 53.0, 53.0)));
        assert!(newest.update(&fix("tablet", 12, 54.0, 54.0, 0.0)));
        assert!(!newest.update(&fix("phone", 4, 55.0, 55.0, 0.0)));
        // In a ride the device that accepted it counts.
        assert!(newest.update(&of_ride("phone", 5, 56.0, true)));
        assert!(!newest.update(&of_ride("tablet", 12, 57.0, false)));
        assert!(newest.update(&of_ride("tablet", 13, 87.0, false)), "it was silent");
        assert!(newest.update(&of_ride("phone", 6, 88.0, true)));
        assert_eq!((place_of(&newest), newest.device()), (6, "phone"));
    }

    #[test]
    fn what_waited_in_the_device_is_older_than_a_beacon_if_its_age_is_certain() {
        for (waited, is_certain, moves) in
            [(60.0, true, false), (4.0, true, false), (1.0, true, true), (60.0, false, true), (130.0, false, false)]
        {
            let mut newest = Newest::default();
            hear(&mut newest, beacon(Some(""), 1, 100.0, 100.0));
            let held_back = Fix { is_time_certain: is_certain, ..fix("", 9, 101.0, 101.0 - waited, 0.0) };
            assert_eq!(newest.update(&held_back), moves, "{waited} {is_certain}");
            let live = Fix { is_time_certain: is_certain, ..fix("", 2, 102.0, 102.0, 0.0) };
            assert!(newest.update(&live));
        }
    }

    #[test]
    fn what_was_stored_stays_unless_something_newer_is_known() {
        let mut known = Newest::default();
        known.update(&fix("phone", 3, 10.0, 10.0, 0.0));
        let stored = *known.place().unwrap();
        let mut newest = Newest::default();
        newest.restore(stored, "phone");
        assert_eq!(newest.place(), known.place());
        assert!(!hear(&mut newest, beacon(Some("phone"), 1, 12.0, 2.0)), "the beacon's place is older");
        assert!(!newest.update(&fix("phone", 2, 9.0, 9.0, 0.0)));
        assert!(newest.update(&fix("phone", 4, 14.0, 14.0, 0.0)));
        newest.restore(stored, "phone");
        assert_eq!(place_of(&newest), 4);
    }
}
