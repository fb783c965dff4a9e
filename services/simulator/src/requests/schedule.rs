//! When which request is made: trips of a file, or seeded ones, handed out in order. Pure: the time comes from outside.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::{Request, Trips};
use crate::position::Position;

/// The longest real time between two requests, whatever the gaps in the file, so that the passengers have something to do.
const GAP_MAX: Duration = Duration::from_millis(200);
/// The mean gap between two seeded requests, simulated seconds.
const SEEDED_GAP_S: f64 = 2.0;
/// What a vehicle drives in the middle, simulated.
const USUAL_MPS: f64 = 11.0;
/// Of a trip's length the least part: of a shorter way the noise of a car that stands is too much of the bill.
const SCALE_MIN: f64 = 0.5;
/// An idle driver waits near one of so many coming pickups.
const PICKUPS_AHEAD: usize = 200;

#[derive(Debug, Clone)]
pub(crate) struct ScheduledRequest {
    pub(crate) not_before: Instant,
    pub(crate) request: Request,
}

/// Gaps between requests are those of the record, divided by the city's speed, and at most [`GAP_MAX`].
#[derive(Debug)]
pub(crate) struct RequestSchedule {
    source: Source,
    speed: f64,
    /// Of the lengths of seeded trips: 1 at their own size.
    scale: f64,
    next_at: Instant,
    previous_pickup_time: Option<DateTime<Utc>>,
    rng: StdRng,
}

#[derive(Debug)]
enum Source {
    File { trips: Trips, next: usize },
    Seeded { centres: Vec<Position>, clock: DateTime<Utc> },
}

impl RequestSchedule {
    pub(crate) fn new(trips: Option<Trips>, centres: Vec<Position>, speed: f64, seed: u64, start: Instant) -> Self {
        let source = match trips {
            Some(trips) => Source::File { trips, next: 0 },
            None => Source::Seeded { centres, clock: DateTime::UNIX_EPOCH },
        };
        let rng = StdRng::seed_from_u64(seed ^ 0x0dea_1dea);
        Self { source, speed, scale: 1.0, next_at: start, previous_pickup_time: None, rng }
    }

    /// Vehicles drive at most so many metres a second, however fast the simulation is: seeded trips become shorter, so that they take
    /// about as long as they would.
    pub(crate) fn set_fastest(&mut self, fastest_mps: f64) {
        self.scale = (fastest_mps / (USUAL_MPS * self.speed)).clamp(SCALE_MIN, 1.0);
    }

    /// The next request, made by the passenger of this index; `None` at the end of the file.
    pub(crate) fn next(&mut self, now: Instant, person: usize) -> Option<ScheduledRequest> {
        let request = match &mut self.source {
            Source::File { trips, next } => {
                let request = trips.requests.get(*next)?.clone();
                *next += 1;
                request
            }
            Source::Seeded { centres, clock } => {
                // Independent passengers: the gaps are exponentially distributed.
                let gap_s = -SEEDED_GAP_S * (1.0 - self.rng.random::<f64>()).ln();
                *clock += chrono::Duration::milliseconds((gap_s * 1000.0) as i64);
                seeded(centres[person % centres.len()], (*clock, self.scale), &mut self.rng)
            }
        };
        let gap = self.previous_pickup_time.map_or(Duration::ZERO, |previous| {
            let gap = (request.pickup_time - previous).to_std().unwrap_or(Duration::ZERO);
            Duration::try_from_secs_f64(gap.as_secs_f64() / self.speed).unwrap_or(GAP_MAX).min(GAP_MAX)
        });
        self.previous_pickup_time = Some(request.pickup_time);
        // While every passenger was busy, no requests piled up.
        self.next_at = (self.next_at + gap).max(now);
        Some(ScheduledRequest { not_before: self.next_at, request })
    }

    /// Where the idle driver of this index goes: near a coming pickup.
    pub(crate) fn idle_position(&mut self, person: usize) -> Position {
        let pickup = match &self.source {
            Source::File { trips, next } => {
                let left = trips.requests.len().saturating_sub(*next);
                let (from, count) = if left > 0 { (*next, left) } else { (0, trips.requests.len()) };
                let index = from + self.rng.random_range(0..count.clamp(1, PICKUPS_AHEAD));
                trips.requests.get(index).map(|request| request.pickup)
            }
            Source::Seeded { centres, clock } => {
                Some(seeded(centres[person % centres.len()], (*clock, self.scale), &mut self.rng).pickup)
            }
        };
        let pickup = pickup.unwrap_or(Position { lat: 40.7484, lng: -73.9857 });
        pickup.offset(self.rng.random_range(-300.0..300.0), self.rng.random_range(-300.0..300.0))
    }
}

/// A trip of 0.8 to 3 km whose pickup is within 1.5 km of the centre; in scale.
fn seeded(centre: Position, (pickup_time, scale): (DateTime<Utc>, f64), rng: &mut StdRng) -> Request {
    let mut around = |from: Position, min_m: f64, max_m: f64| {
        let angle = rng.random_range(0.0..std::f64::consts::TAU);
        let length_m = rng.random_range(min_m..max_m) * scale;
        from.offset(length_m * angle.sin(), length_m * angle.cos())
    };
    let pickup = around(centre, 0.0, 1_500.0);
    let dropoff = around(pickup, 800.0, 3_000.0);
    Request { pickup_time, has_offset: true, pickup, dropoff, dropoff_time: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::requests::{LeftOut, RIDE_MIN_M};

    #[tokio::test]
    async fn gaps_are_divided_by_the_speed_and_bounded() {
        let at = |seconds: i64| Request {
            pickup_time: DateTime::from_timestamp(seconds, 0).unwrap(),
            has_offset: true,
            pickup: Position { lat: 40.7, lng: -73.9 },
            dropoff: Position { lat: 40.8, lng: -73.9 },
            dropoff_time: None,
        };
        let trips = Trips { requests: vec![at(0), at(1), at(100_000)], left_out: LeftOut::default() };
        let start = clock::now();
        let mut schedule = RequestSchedule::new(Some(trips), vec![Position { lat: 1.0, lng: 1.0 }], 10.0, 1, start);
        assert_eq!(schedule.next(start, 0).unwrap().not_before, start);
        assert_eq!(schedule.next(start, 0).unwrap().not_before, start + Duration::from_millis(100));
        assert_eq!(schedule.next(start, 0).unwrap().not_before, start + Duration::from_millis(300));
        assert!(schedule.next(start, 0).is_none());
    }

    #[tokio::test]
    async fn people_are_spread_over_the_cities() {
        let start = clock::now();
        let cities = [Position { lat: 40.7, lng: -73.9 }, Position { lat: 52.5, lng: 13.4 }];
        let mut schedule = RequestSchedule::new(None, cities.to_vec(), 10.0, 1, start);
        for person in 0..10 {
            let city = cities[person % 2];
            let request = schedule.next(start, person).unwrap().request;
            assert!(request.pickup.distance_m(&city) < 2_000.0 && request.dropoff.distance_m(&city) < 5_000.0);
            assert!(schedule.idle_position(person).distance_m(&city) < 3_000.0);
        }
    }

    #[tokio::test]
    async fn where_vehicles_must_be_slow_trips_are_short() {
        let start = clock::now();
        let longest_m = |fastest_mps| {
            let mut schedule = RequestSchedule::new(None, vec![Position { lat: 40.7, lng: -73.9 }], 40.0, 1, start);
            schedule.set_fastest(fastest_mps);
            let trips = (0..200).map(|n| schedule.next(start, n).unwrap().request);
            let lengths: Vec<f64> = trips.map(|trip| trip.pickup.distance_m(&trip.dropoff)).collect();
            assert!(lengths.iter().all(|length_m| *length_m > RIDE_MIN_M));
            lengths.into_iter().fold(0.0, f64::max).round()
        };
        assert!((2_900.0..3_010.0).contains(&longest_m(f64::INFINITY)));
        assert!((2_170.0..2_260.0).contains(&longest_m(330.0)));
        assert!((1_450.0..1_510.0).contains(&longest_m(56.0)));
    }

    #[tokio::test]
    async fn the_same_seed_gives_the_same_trips() {
        let start = clock::now();
        let trips = |seed| {
            let mut schedule = RequestSchedule::new(None, vec![Position { lat: 40.7, lng: -73.9 }], 10.0, seed, start);
            (0..20).map(|n| schedule.next(start, n).unwrap().request).collect::<Vec<_>>()
        };
        assert_eq!(trips(7), trips(7));
        assert_ne!(trips(7), trips(8));
        assert!(trips(7).iter().all(|request| request.pickup.distance_m(&request.dropoff) > RIDE_MIN_M));
    }
}
