//! Requests for rides: the type, and real trips read from a CSV file. Whoever reads such a file reads it here.

mod schedule;

use std::fmt;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, NaiveDateTime, Utc};
use csv::ByteRecord;

pub(crate) use self::schedule::{RequestSchedule, ScheduledRequest};
use crate::position::Position;

/// Nobody takes a shorter ride, and the platform would have nothing to bill.
pub const RIDE_MIN_M: f64 = 200.0;
/// A longer trip is a broken record.
const TRIP_MAX_M: f64 = 200_000.0;
/// The most trips: all are in memory.
const TRIPS_MAX: usize = 5_000_000;
/// So many reasons are named; rows beyond are counted.
const REASONS_MAX: usize = 5;
/// Of a field that is shown as it is.
const SHOWN_MAX: usize = 40;

/// The columns that every file has, in any order and beside any others.
const COLUMNS: [&str; 5] = ["pickup_time", "pickup_lat", "pickup_lng", "dropoff_lat", "dropoff_lng"];
const DROPOFF_TIME: &str = "dropoff_time";

#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// When the passenger asked for it, by the record's clock.
    pub pickup_time: DateTime<Utc>,
    /// False of a time without an offset: it is read as one of UTC, and is the local time of wherever that was.
    pub has_offset: bool,
    pub pickup: Position,
    pub dropoff: Position,
    /// When the passenger left, if the record says so; by the same clock.
    pub dropoff_time: Option<DateTime<Utc>>,
}

/// What must be known of a trip for it to be used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usable {
    /// From the pickup to the dropoff, great circle.
    pub length_min_m: f64,
    /// Whether the record must say when the passenger left.
    pub needs_dropoff_time: bool,
}

/// The content of a file of trips.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trips {
    /// The usable trips, in order of `pickup_time`.
    pub requests: Vec<Request>,
    pub left_out: LeftOut,
}

/// Rows that are no usable trips.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    pub rows: usize,
    /// Of the first ones: the line and the reason.
    pub reasons: Vec<String>,
}

impl LeftOut {
    fn add(&mut self, line: u64, reason: &str) {
        self.rows += 1;
        if self.reasons.len() < REASONS_MAX {
            self.reasons.push(format!("line {line}: {reason}"));
        }
    }
}

/// A line on the count, and one for each reason.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = if self.rows == 1 { "row is" } else { "rows are" };
        write!(f, "{} {rows} left out", self.rows)?;
        for reason in &self.reasons {
            write!(f, "\n  {reason}")?;
        }
        match self.rows - self.reasons.len() {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// Reads the trips of a CSV file. Its header must have `pickup_time`, `pickup_lat`, `pickup_lng`, `dropoff_lat` and `dropoff_lng`, and
/// `dropoff_time` if that is needed. Times are RFC 3339, or `YYYY-MM-DD HH:MM:SS`. Rows that cannot be used are left out and counted.
///
/// # Errors
/// The file cannot be read, a column is missing, or no row is usable.
pub fn read_requests(path: &Path, usable: Usable) -> Result<Trips> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    read(file, usable).with_context(|| format!("in {}", path.display()))
}

/// Where the columns are.
struct Columns {
    of: [usize; 5],
    dropoff_time: Option<usize>,
}

impl Columns {
    fn find(header: &ByteRecord, usable: Usable) -> Result<Self> {
        let at = |name: &str| header.iter().position(|column| column == name.as_bytes());
        let needed = COLUMNS.into_iter().chain(usable.needs_dropoff_time.then_some(DROPOFF_TIME));
        let missing: Vec<&str> = needed.filter(|name| at(name).is_none()).collect();
        ensure!(missing.is_empty(), "line 1: the columns {} are missing", missing.join(", "));
        Ok(Self { of: COLUMNS.map(|name| at(name).unwrap_or_default()), dropoff_time: at(DROPOFF_TIME) })
    }
}

fn read(source: impl Read, usable: Usable) -> Result<Trips> {
    let mut trips = Trips::default();
    // Only the columns that are needed have to be text, and a row may have too few or too many.
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(Lines::of(source));
    let columns = Columns::find(reader.byte_headers().context("line 1 is no header")?, usable)?;
    let mut record = ByteRecord::new();
    while reader.read_byte_record(&mut record)? {
        // The reader is at the line after the record, whose own position is before blank lines.
        let breaks = record.iter().flatten().filter(|byte| **byte == b'\n').count() as u64;
        let line = (reader.position().line() - 1).saturating_sub(breaks);
        match request(&record, &columns, usable) {
            Ok(request) => {
                ensure!(trips.requests.len() < TRIPS_MAX, "line {line}: more than {TRIPS_MAX} trips");
                trips.requests.push(request);
            }
            Err(reason) => trips.left_out.add(line, &reason),
        }
    }
    if trips.requests.is_empty() {
        match trips.left_out.rows {
            0 => bail!("there are no trips in it"),
            _ => bail!("no row is a usable trip: {}", trips.left_out),
        }
    }
    trips.requests.sort_by_key(|request| request.pickup_time);
    Ok(trips)
}

/// Lines that all end with a line feed, the last one too: only so does the reader of CSV know in which line it is.
struct Lines<R> {
    source: R,
    after_return: bool,
    has_ended: bool,
}

impl<R: Read> Lines<R> {
    fn of(source: R) -> Self {
        Self { source, after_return: false, has_ended: false }
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while !self.has_ended && !buffer.is_empty() {
            let length = self.source.read(buffer)?;
            if length == 0 {
                self.has_ended = true;
                buffer[0] = b'\n';
                return Ok(1);
            }
            let mut kept = 0;
            for n in 0..length {
                let byte = buffer[n];
                let is_second = byte == b'\n' && self.after_return;
                self.after_return = byte == b'\r';
                if !is_second {
                    buffer[kept] = if byte == b'\r' { b'\n' } else { byte };
                    kept += 1;
                }
            }
            if kept > 0 {
                return Ok(kept);
            }
        }
        Ok(0)
    }
}

/// The trip of a row, or why it is none.
fn request(record: &ByteRecord, columns: &Columns, usable: Usable) -> Result<Request, String> {
    let text = |n: usize| String::from_utf8_lossy(record.get(n).unwrap_or_default());
    let wrong = |name: &str, n: usize, needed: &str| {
        let shown: String = text(n).chars().take(SHOWN_MAX).collect();
        format!("{name}: `{shown}` is no {needed}")
    };
    let time_of = |name: &str, n: usize| {
        time(&text(n)).ok_or_else(|| wrong(name, n, "time as 2015-01-01T00:06:32-05:00 or 2015-01-01 00:06:32"))
    };
    let degrees = |i: usize, most: f64| {
        let (name, n) = (COLUMNS[i], columns.of[i]);
        let number = text(n).parse::<f64>().ok().filter(|degrees| degrees.abs() <= most);
        number.ok_or_else(|| wrong(name, n, &format!("number of degrees from -{most} to {most}")))
    };
    let position = |lat: usize| {
        let place = Position { lat: degrees(lat, 90.0)?, lng: degrees(lat + 1, 180.0)? };
        let names = if lat == 1 { "pickup" } else { "dropoff" };
        if place.is_plausible() { Ok(place) } else { Err(format!("{names}: 0, 0 is no place of a trip")) }
    };
    let (pickup_time, has_offset) = time_of(COLUMNS[0], columns.of[0])?;
    let (pickup, dropoff) = (position(1)?, position(3)?);
    let length_m = pickup.distance_m(&dropoff);
    if !(usable.length_min_m..=TRIP_MAX_M).contains(&length_m) {
        let (min_m, max_m) = (usable.length_min_m, TRIP_MAX_M);
        return Err(format!("a trip of {length_m:.0} m is outside of {min_m} to {max_m} m"));
    }
    let dropoff_time = match columns.dropoff_time {
        Some(n) if usable.needs_dropoff_time => Some(time_of(DROPOFF_TIME, n)?),
        column => column.and_then(|n| time(&text(n))),
    };
    // Without an offset on one of them, they are not of one clock.
    let of_one_clock = dropoff_time.filter(|(_, has)| *has == has_offset).map(|(time, _)| time);
    if usable.needs_dropoff_time && of_one_clock.is_none() {
        return Err(format!("{DROPOFF_TIME}: an offset is at one of the times alone"));
    }
    Ok(Request { pickup_time, has_offset, pickup, dropoff, dropoff_time: of_one_clock })
}

/// A time, and whether its offset is known. Second 60 is none.
fn time(text: &str) -> Option<(DateTime<Utc>, bool)> {
    let (time, has_offset) = match DateTime::parse_from_rfc3339(text) {
        Ok(time) => (time.to_utc(), true),
        Err(_) => (NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok()?.and_utc(), false),
    };
    (time.timestamp_subsec_nanos() < 1_000_000_000).then_some((time, has_offset))
}

#[cfg(test)]
mod tests;
