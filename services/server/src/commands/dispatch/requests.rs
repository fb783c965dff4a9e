//! Recorded demand: trips in a CSV file, by the names of its columns.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use csv::StringRecord;
use matching::evaluate::Trip;
use streams::Position;

/// The columns that are read; others may be there, in any order.
const COLUMNS: [&str; 5] = ["pickup_time", "pickup_lat", "pickup_lng", "dropoff_lat", "dropoff_lng"];
/// The most trips: all are in memory.
const TRIPS_MAX: usize = 5_000_000;

/// The trips of a file.
///
/// # Errors
/// A sentence that names the line and the column.
pub(super) fn read(path: &Path, fold_s: Option<u32>) -> Result<Vec<Trip>> {
    let file = std::fs::File::open(path).with_context(|| format!("--requests {}", path.display()))?;
    parse(file, fold_s).with_context(|| format!("--requests {}", path.display()))
}

fn parse(input: impl std::io::Read, fold_s: Option<u32>) -> Result<Vec<Trip>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
    let header = reader.headers().context("line 1 is not a head of names with commas")?.clone();
    let at = |name: &str| header.iter().position(|column| column == name);
    let missing: Vec<&str> = COLUMNS.into_iter().filter(|name| at(name).is_none()).collect();
    ensure!(
        missing.is_empty(),
        "line 1: the columns {} are missing; {} are needed",
        missing.join(", "),
        COLUMNS.join(", ")
    );
    let columns = COLUMNS.map(|name| at(name).unwrap_or_default());
    let mut trips = Vec::new();
    for record in reader.records() {
        // The error of the reader has the line in it.
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        ensure!(trips.len() < TRIPS_MAX, "line {line}: more than {TRIPS_MAX} trips");
        trips.push(trip(&record, columns, fold_s).with_context(|| format!("line {line}"))?);
    }
    ensure!(!trips.is_empty(), "there are no trips in it");
    Ok(trips)
}

fn trip(record: &StringRecord, columns: [usize; 5], fold_s: Option<u32>) -> Result<Trip> {
    let text = |n: usize| record.get(columns[n]).unwrap_or_default();
    let time: DateTime<Utc> = match DateTime::parse_from_rfc3339(text(0)) {
        Ok(time) => time.to_utc(),
        Err(_) => bail!("{}: `{}` is no time as 2015-01-01T00:06:32-05:00", COLUMNS[0], text(0)),
    };
    let number = |n: usize, most: f64| match text(n).parse::<f64>() {
        Ok(degrees) if degrees.abs() <= most => Ok(degrees),
        _ => bail!("{}: `{}` is no number of degrees from -{most} to {most}", COLUMNS[n], text(n)),
    };
    let position =
        |lat: usize| Ok::<_, anyhow::Error>(Position { lat: number(lat, 90.0)?, lng: number(lat + 1, 180.0)? });
    let ms = time.timestamp_millis();
    let requested_at_ms = fold_s.map_or(ms, |fold_s| ms.rem_euclid(i64::from(fold_s) * 1_000));
    Ok(Trip { requested_at_ms, pickup: position(1)?, dropoff: position(3)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", parse(text.as_bytes(), None).unwrap_err())
    }

    #[test]
    fn columns_are_found_by_name_and_times_are_folded() {
        let text = "fare,dropoff_lng, pickup_lat,pickup_lng,dropoff_lat,pickup_time\n1,-74,40.5,-73.5,41,1970-01-01T02:00:01.5+01:00\n";
        let trip = Trip {
            requested_at_ms: 1_500,
            pickup: Position { lat: 40.5, lng: -73.5 },
            dropoff: Position { lat: 41.0, lng: -74.0 },
        };
        assert_eq!(parse(text.as_bytes(), Some(3_600)).unwrap(), [trip]);
        assert_eq!(parse(text.as_bytes(), None).unwrap()[0].requested_at_ms, 3_601_500);
    }

    #[test]
    fn a_bad_row_is_named_by_line_and_column() {
        let head = "pickup_time,pickup_lat,pickup_lng,dropoff_lat,dropoff_lng\n";
        let good = "2015-01-01T00:06:32-05:00,40.7,-73.9,40.8,-73.9\n";
        for (text, said) in [
            (String::new(), "the columns pickup_time, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng are missing"),
            ("pickup_time,pickup_lat,pickup_lng,dropoff_lat\n".to_owned(), "the columns dropoff_lng are missing"),
            (head.to_owned(), "there are no trips"),
            (format!("{head}{good}yesterday,1,2,3,4\n"), "line 3: pickup_time: `yesterday` is no time"),
            (format!("{head}2015-01-01T00:06:32-05:00,40.7,-73.9,x,-73.9\n"), "line 2: dropoff_lat: `x` is no number"),
            (format!("{head}2015-01-01T00:06:32-05:00,91,-73.9,40.8,-73.9\n"), "line 2: pickup_lat: `91` is no number"),
            (
                format!("{head}2015-01-01T00:06:32-05:00,NaN,-73.9,40.8,-73.9\n"),
                "line 2: pickup_lat: `NaN` is no number",
            ),
            (format!("{head}{good}2015-01-01T00:06:32-05:00,40.7\n"), "line: 3"),
        ] {
            let error = error(&text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
