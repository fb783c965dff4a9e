//! Who wants to go where, and when: trips from a file or seeded ones, dealt in order. It owns no passenger.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::position::Position;

/// The longest real time that the deal waits between two requests, whatever the file's gaps are.
const LONGEST_GAP: Duration = Duration::from_millis(200);
/// Seeded trips ask so often, simulated seconds between two.
const SEEDED_GAP_S: f64 = 2.0;
/// Nobody takes a ride shorter than this, and the platform would have nothing to bill.
const SHORTEST_TRIP_M: f64 = 200.0;
/// A trip longer than this is a broken record.
const LONGEST_TRIP_M: f64 = 200_000.0;

/// One wish for a ride.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// When it was made, on the record's clock.
    pub pickup_time: DateTime<Utc>,
    /// From where.
    pub pickup: Position,
    /// To where.
    pub dropoff: Position,
}

/// What a file of trips held.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trips {
    /// The usable ones, in order of `pickup_time`.
    pub requests: Vec<Request>,
    /// Trips left out for coordinates that cannot be: out of range, 0, 0, or no distance between them.
    pub skipped: usize,
}

#[derive(serde::Deserialize)]
struct Line {
    pickup_time: DateTime<Utc>,
    pickup_lat: f64,
    pickup_lng: f64,
    dropoff_lat: f64,
    dropoff_lng: f64,
}

/// Reads trips from a CSV file with the columns `pickup_time` (RFC 3339), `pickup_lat`, `pickup_lng`, `dropoff_lat` and
/// `dropoff_lng`, in any order and among others; the first `limit` usable lines.
///
/// # Errors
/// A file that cannot be read, and any line that is not such a trip, with its number.
pub fn read_requests(path: &Path, limit: Option<usize>) -> Result<Trips> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    read(file, limit).with_context(|| format!("in {}", path.display()))
}

fn read(source: impl std::io::Read, limit: Option<usize>) -> Result<Trips> {
    let limit = limit.unwrap_or(usize::MAX);
    let mut trips = Trips::default();
    let mut reader = csv::Reader::from_reader(source);
    let headers = reader.headers().context("line 1: no header")?.clone();
    for record in reader.records() {
        if trips.requests.len() >= limit {
            break;
        }
        let record = match record {
            Ok(record) => record,
            Err(error) => bail!("line {}: {error}", error.position().map_or(0, csv::Position::line)),
        };
        let number = record.position().map_or(0, csv::Position::line);
        let line: Line = record.deserialize(Some(&headers)).with_context(|| format!("line {number} is no trip"))?;
        let pickup = Position { lat: line.pickup_lat, lng: line.pickup_lng };
        let dropoff = Position { lat: line.dropoff_lat, lng: line.dropoff_lng };
        let length_m = pickup.distance_m(&dropoff);
        let possible = pickup.is_plausible() && dropoff.is_plausible();
        if possible && (SHORTEST_TRIP_M..=LONGEST_TRIP_M).contains(&length_m) {
            trips.requests.push(Request { pickup_time: line.pickup_time, pickup, dropoff });
        } else {
            trips.skipped += 1;
        }
    }
    trips.requests.sort_by_key(|request| request.pickup_time);
    Ok(trips)
}

/// A request as it is handed to a passenger.
#[derive(Debug, Clone)]
pub(crate) struct Dealt {
    /// Not before this.
    pub(crate) at: Instant,
    pub(crate) request: Request,
}

/// Hands out requests one by one, each with its time. Real gaps are divided by the speed and never longer than
/// [`LONGEST_GAP`], so that the passengers are kept busy.
#[derive(Debug)]
pub(crate) struct Deal {
    source: Source,
    speed: f64,
    next_at: Instant,
    previous: Option<DateTime<Utc>>,
    rng: StdRng,
}

#[derive(Debug)]
enum Source {
    File { trips: Trips, next: usize },
    Seeded { centre: Position, clock: DateTime<Utc> },
}

impl Deal {
    pub(crate) fn new(trips: Option<Trips>, centre: Position, speed: f64, seed: u64, start: Instant) -> Self {
        let source = match trips {
            Some(trips) => Source::File { trips, next: 0 },
            None => Source::Seeded { centre, clock: DateTime::UNIX_EPOCH },
        };
        Self { source, speed, next_at: start, previous: None, rng: StdRng::seed_from_u64(seed ^ 0x0dea_1dea) }
    }

    /// The next request, or none if the file is used up.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Dealt> {
        let request = match &mut self.source {
            Source::File { trips, next } => {
                let request = trips.requests.get(*next)?.clone();
                *next += 1;
                request
            }
            Source::Seeded { centre, clock } => {
                // An exponential gap: independent passengers.
                let gap_s = -SEEDED_GAP_S * (1.0 - self.rng.random::<f64>()).ln();
                *clock += chrono::Duration::milliseconds((gap_s * 1000.0) as i64);
                seeded(*centre, *clock, &mut self.rng)
            }
        };
        let gap = self.previous.map_or(Duration::ZERO, |previous| {
            let real = (request.pickup_time - previous).to_std().unwrap_or(Duration::ZERO);
            Duration::try_from_secs_f64(real.as_secs_f64() / self.speed).unwrap_or(LONGEST_GAP).min(LONGEST_GAP)
        });
        self.previous = Some(request.pickup_time);
        // A pool of passengers that was busy does not owe the time that it missed.
        self.next_at = (self.next_at + gap).max(now);
        Some(Dealt { at: self.next_at, request })
    }

    /// A place where somebody will soon want a ride: where idle drivers go.
    pub(crate) fn stand(&mut self) -> Position {
        let near = match &self.source {
            Source::File { trips, next } => {
                let left = trips.requests.len().saturating_sub(*next);
                let (from, many) = if left > 0 { (*next, left) } else { (0, trips.requests.len()) };
                let index = from + self.rng.random_range(0..many.clamp(1, 200));
                trips.requests.get(index).map(|request| request.pickup)
            }
            Source::Seeded { centre, clock } => Some(seeded(*centre, *clock, &mut self.rng).pickup),
        };
        let near = near.unwrap_or(Position { lat: 40.7484, lng: -73.9857 });
        near.offset(self.rng.random_range(-300.0..300.0), self.rng.random_range(-300.0..300.0))
    }
}

/// A trip of 0.8 to 3 km whose pickup lies within 1.5 km of the centre.
fn seeded(centre: Position, pickup_time: DateTime<Utc>, rng: &mut StdRng) -> Request {
    let mut around = |from: Position, least_m: f64, most_m: f64| {
        let angle = rng.random_range(0.0..std::f64::consts::TAU);
        let length_m = rng.random_range(least_m..most_m);
        from.offset(length_m * angle.sin(), length_m * angle.cos())
    };
    let pickup = around(centre, 0.0, 1_500.0);
    let dropoff = around(pickup, 800.0, 3_000.0);
    Request { pickup_time, pickup, dropoff }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "pickup_time,dropoff_time,pickup_lat,pickup_lng,dropoff_lat,dropoff_lng,trip_distance_mi\n";

    fn parse(lines: &str, limit: Option<usize>) -> Result<Trips> {
        read(format!("{HEADER}{lines}").as_bytes(), limit)
    }

    #[test]
    fn trips_are_sorted_and_impossible_ones_counted() {
        let trips = parse(
            "2015-01-01T00:07:21-05:00,x,40.7299,-73.980843,40.746704,-73.978233,1.5\n\
             2015-01-01T00:06:32-05:00,x,40.72591,-73.991859,40.74218,-73.998909,1.6\n\
             2015-01-01T00:06:33-05:00,x,0,0,40.74218,-73.998909,1.6\n\
             2015-01-01T00:06:33-05:00,x,40.72591,-73.991859,40.72591,-73.991859,0\n",
            None,
        )
        .unwrap();
        assert_eq!(trips.skipped, 2);
        assert_eq!(trips.requests.len(), 2);
        assert_eq!(trips.requests[0].pickup.lat, 40.72591);
        assert_eq!(trips.requests[0].pickup_time.to_rfc3339(), "2015-01-01T05:06:32+00:00");
    }

    #[test]
    fn a_bad_line_is_named() {
        for bad in ["2015-01-01T00:07:21-05:00,x,40.7,-73.9,40.7\n", "yesterday,x,40.7,-73.9,40.8,-73.9,1\n"] {
            let good = "2015-01-01T00:07:21-05:00,x,40.7299,-73.980843,40.746704,-73.978233,1.5\n";
            let error = format!("{:#}", parse(&format!("{good}{bad}"), None).unwrap_err());
            assert!(error.contains("line 3"), "{error}");
        }
    }

    #[test]
    fn the_limit_counts_usable_lines() {
        let line = "2015-01-01T00:07:21-05:00,x,40.7299,-73.980843,40.746704,-73.978233,1.5\n";
        assert_eq!(parse(&line.repeat(5), Some(3)).unwrap().requests.len(), 3);
    }

    #[tokio::test]
    async fn gaps_shrink_with_the_speed_and_have_a_limit() {
        let at = |seconds: i64| Request {
            pickup_time: DateTime::from_timestamp(seconds, 0).unwrap(),
            pickup: Position { lat: 40.7, lng: -73.9 },
            dropoff: Position { lat: 40.8, lng: -73.9 },
        };
        let trips = Trips { requests: vec![at(0), at(1), at(100_000)], skipped: 0 };
        let start = crate::clock::now();
        let mut deal = Deal::new(Some(trips), Position { lat: 1.0, lng: 1.0 }, 10.0, 1, start);
        assert_eq!(deal.next(start).unwrap().at, start);
        assert_eq!(deal.next(start).unwrap().at, start + Duration::from_millis(100));
        assert_eq!(deal.next(start).unwrap().at, start + Duration::from_millis(300));
        assert!(deal.next(start).is_none());
    }

    #[tokio::test]
    async fn seeded_trips_are_the_same_for_the_same_seed() {
        let start = crate::clock::now();
        let trips = |seed| {
            let mut deal = Deal::new(None, Position { lat: 40.7, lng: -73.9 }, 10.0, seed, start);
            (0..20).map(|_| deal.next(start).unwrap().request).collect::<Vec<_>>()
        };
        assert_eq!(trips(7), trips(7));
        assert_ne!(trips(7), trips(8));
        assert!(trips(7).iter().all(|r| r.pickup.distance_m(&r.dropoff) > SHORTEST_TRIP_M));
    }
}
