//! Times on the wire: RFC 3339, UTC, microseconds. For `#[serde(with = "rfc3339")]`.

pub mod optional;

use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};
use serde::{Deserialize, Deserializer, Serializer};

/// Writes `time` as [`text`] does.
pub fn serialize<S: Serializer>(time: &DateTime<Utc>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&text(time))
}

/// Reads an RFC 3339 time of any offset and converts it to UTC. The year must be within 1970 to 9999, and second
/// 60 is refused.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DateTime<Utc>, D::Error> {
    let time = DateTime::<Utc>::deserialize(from)?;
    // The parser accepts years so far off that adding one second overflows.
    if !(1970..=9999).contains(&time.year()) {
        return Err(serde::de::Error::custom("the year must be within 1970 to 9999"));
    }
    // It would be written as :60 again, which other parsers refuse.
    if time.nanosecond() >= 1_000_000_000 {
        return Err(serde::de::Error::custom("seconds are from 0 to 59"));
    }
    Ok(time)
}

/// The text form, with microseconds and `Z`: `2026-11-21T04:05:06.123456Z`.
pub fn text(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
