//! Requests for rides: the type, and real trips read from a CSV file.

mod schedule;

use std::path::Path;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

pub(crate) use self::schedule::{RequestSchedule, ScheduledRequest};
use crate::position::Position;

/// Nobody takes a shorter ride, and the platform would have nothing to bill.
const TRIP_MIN_M: f64 = 200.0;
/// A longer trip is a broken record.
const TRIP_MAX_M: f64 = 200_000.0;

#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// When the passenger asked for it, by the record's clock.
    pub pickup_time: DateTime<Utc>,
    pub pickup: Position,
    pub dropoff: Position,
    /// When the passenger left, if the record says so.
    pub dropoff_time: Option<DateTime<Utc>>,
}

/// The content of a file of trips.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trips {
    /// The usable trips, in order of `pickup_time`.
    pub requests: Vec<Request>,
    /// How many trips were left out: coordinates out of range or at 0, 0, or shorter than 200 m or longer than 200 km.
    pub skipped: usize,
}

#[derive(serde::Deserialize)]
struct Row {
    pickup_time: DateTime<Utc>,
    #[serde(default)]
    dropoff_time: String,
    pickup_lat: f64,
    pickup_lng: f64,
    dropoff_lat: f64,
    dropoff_lng: f64,
}

/// Reads the first `limit` usable trips of a CSV file. Its header must have `pickup_time` (RFC 3339), `pickup_lat`,
/// `pickup_lng`, `dropoff_lat` and `dropoff_lng`, in any order; other columns are ignored.
///
/// # Errors
/// The file cannot be read, or a line is no such trip; the text has its number.
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
        let line = record.position().map_or(0, csv::Position::line);
        let row: Row = record.deserialize(Some(&headers)).with_context(|| format!("line {line} is no trip"))?;
        let pickup = Position { lat: row.pickup_lat, lng: row.pickup_lng };
        let dropoff = Position { lat: row.dropoff_lat, lng: row.dropoff_lng };
        let plausible = pickup.is_plausible() && dropoff.is_plausible();
        if plausible && (TRIP_MIN_M..=TRIP_MAX_M).contains(&pickup.distance_m(&dropoff)) {
            let dropoff_time = DateTime::parse_from_rfc3339(&row.dropoff_time).ok().map(|at| at.to_utc());
            trips.requests.push(Request { pickup_time: row.pickup_time, pickup, dropoff, dropoff_time });
        } else {
            trips.skipped += 1;
        }
    }
    trips.requests.sort_by_key(|request| request.pickup_time);
    Ok(trips)
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
    fn the_error_names_the_line_that_is_no_trip() {
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
}
