//! Speeds fitted to trips that were driven. Pure.

use chrono::{DateTime, Timelike, Utc};
use streams::Position;

use super::rules::Market;
use crate::estimate;

/// Below so many trips an hour of the day has the speed of the whole day.
const TRIPS_MIN: u32 = 20;
/// What is shorter, longer or faster is a broken record.
const DURATION_S: std::ops::RangeInclusive<f64> = 60.0..=10_800.0;
const SPEED_KMH: std::ops::RangeInclusive<f64> = 1.0..=120.0;

/// A trip that was driven.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Driven {
    pub at: DateTime<Utc>,
    pub from: Position,
    pub to: Position,
    pub duration_s: f64,
}

/// The speeds of a market by hour of the day, km/h, to a tenth.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    pub speed_kmh: Vec<f64>,
    /// The trips that count.
    pub trips: u32,
    /// Sum of the estimated durations over the sum of those driven: with the speeds of the market before, and with these.
    pub before: f64,
    pub after: f64,
}

#[derive(Default, Clone, Copy)]
struct Sum {
    trips: u32,
    metres: f64,
    seconds: f64,
}

impl Sum {
    fn add(&mut self, metres: f64, seconds: f64) {
        (self.trips, self.metres, self.seconds) = (self.trips + 1, self.metres + metres, self.seconds + seconds);
    }

    fn kmh(&self) -> f64 {
        (self.metres / self.seconds * 36.0).round() / 10.0
    }
}

/// The speeds at which the estimates of each hour add up to what was driven in it: the sum of distances, great circle × 1.3, over the sum of
/// durations. A mean of speeds would be too fast, because slow trips take longer. `trips` are those of the market; `None` if
/// they are too few.
pub fn fit(market: &Market, trips: &[Driven]) -> Option<Fitted> {
    let (mut day, mut hours, mut before_s) = (Sum::default(), [Sum::default(); 24], 0.0);
    for trip in trips {
        let metres = estimate(&trip.from, &trip.to).0;
        if !DURATION_S.contains(&trip.duration_s) || !SPEED_KMH.contains(&(metres / trip.duration_s * 3.6)) {
            continue;
        }
        let hour = trip.at.with_timezone(&market.time_zone).hour() as usize;
        hours[hour].add(metres, trip.duration_s);
        day.add(metres, trip.duration_s);
        before_s += market.estimate(&trip.from, &trip.to, trip.at).1;
    }
    if day.trips < TRIPS_MIN {
        return None;
    }
    let of_hour = |hour: &Sum| if hour.trips < TRIPS_MIN { day.kmh() } else { hour.kmh() };
    let speed_kmh: Vec<f64> = hours.iter().map(of_hour).collect();
    let after_s: f64 = hours.iter().zip(&speed_kmh).map(|(hour, kmh)| hour.metres / (kmh / 3.6)).sum();
    Some(Fitted { speed_kmh, trips: day.trips, before: before_s / day.seconds, after: after_s / day.seconds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tariffs;

    #[test]
    fn estimates_of_an_hour_add_up_to_what_was_driven_in_it() {
        let market = &Market::world(Tariffs::default());
        let from = Position { lat: 40.7, lng: -74.0 };
        let to = Position { lat: 40.75, lng: -74.0 };
        let trip = |hour: u32, duration_s: f64| Driven {
            at: DateTime::UNIX_EPOCH + chrono::Duration::hours(hour.into()),
            from,
            to,
            duration_s,
        };
        let mut trips: Vec<Driven> = (0..20).map(|_| trip(8, 1_800.0)).collect();
        trips.extend((0..20).map(|_| trip(3, 600.0)));
        // Too few of an hour, and records that nobody drove.
        trips.extend([trip(5, 900.0), trip(8, 5.0), trip(8, 90_000.0)]);
        let fitted = fit(market, &trips).unwrap();
        let metres = estimate(&from, &to).0;
        let kmh = |seconds: f64| (metres / seconds * 36.0).round() / 10.0;
        assert_eq!((fitted.trips, fitted.speed_kmh[8], fitted.speed_kmh[3]), (41, kmh(1_800.0), kmh(600.0)));
        assert_eq!((fitted.speed_kmh[5], fitted.speed_kmh[12]), (fitted.speed_kmh[0], fitted.speed_kmh[0]));
        assert!((fitted.after - 1.0).abs() < 0.02 && (fitted.before - 1.0).abs() > 0.05, "{fitted:?}");
        assert_eq!(fit(market, &trips[..19]), None);
    }
}
