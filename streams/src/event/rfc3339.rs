//! Times on the wire: RFC 3339, UTC, microseconds. For `#[serde(with = "rfc3339")]`.

pub mod optional;

use std::fmt;

use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat, Timelike, Utc};
use serde::de::Visitor;
use serde::{Deserializer, Serializer};

/// Writes `time` as [`text`] does.
pub fn serialize<S: Serializer>(time: &DateTime<Utc>, to: S) -> Result<S::Ok, S::Error> {
    match written(time) {
        Some(bytes) => to.serialize_str(std::str::from_utf8(&bytes).expect("the form and digits are ASCII")),
        None => to.serialize_str(&text(time)),
    }
}

/// Reads an RFC 3339 time of any offset and converts it to UTC. The year must be within 1970 to 9999, and second
/// 60 is refused.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DateTime<Utc>, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = DateTime<Utc>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an RFC 3339 formatted date and time string")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            let time = match read(text) {
                Some(time) => time,
                None => text.parse::<DateTime<Utc>>().map_err(E::custom)?,
            };
            checked(time).map_err(E::custom)
        }
    }
    from.deserialize_str(Text)
}

/// Any RFC 3339 time, in UTC.
pub fn parse(text: &str) -> Option<DateTime<Utc>> {
    read(text).or_else(|| Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc()))
}

fn checked(time: DateTime<Utc>) -> Result<DateTime<Utc>, &'static str> {
    // The parser accepts years so far off that adding one second overflows.
    if !(1970..=9999).contains(&time.year()) {
        return Err("the year must be within 1970 to 9999");
    }
    // It would be written as :60 again, which other parsers refuse.
    if time.nanosecond() >= 1_000_000_000 {
        return Err("seconds are from 0 to 59");
    }
    Ok(time)
}

/// The text form, with microseconds and `Z`: `2026-11-21T04:05:06.123456Z`.
pub fn text(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Bytes of the text form, and where its numbers are in it.
const LENGTH: usize = 27;
const FORM: [u8; LENGTH] = *b"0000-00-00T00:00:00.000000Z";
const PLACES: [(usize, usize); 7] = [(0, 4), (5, 2), (8, 2), (11, 2), (14, 2), (17, 2), (20, 6)];

/// The text form, which chrono takes long to write. `None` of a leap second and of years that have not four digits.
fn written(time: &DateTime<Utc>) -> Option<[u8; LENGTH]> {
    let year = u32::try_from(time.year()).ok().filter(|year| *year <= 9_999)?;
    let micros = Some(time.nanosecond() / 1_000).filter(|micros| *micros < 1_000_000)?;
    let numbers = [year, time.month(), time.day(), time.hour(), time.minute(), time.second(), micros];
    let mut bytes = FORM;
    for ((at, digits), number) in PLACES.into_iter().zip(numbers) {
        let mut left = number;
        for place in bytes[at..at + digits].iter_mut().rev() {
            *place = b'0' + u8::try_from(left % 10).unwrap_or_default();
            left /= 10;
        }
    }
    Some(bytes)
}

/// Reads exactly the text form: chrono's parser takes about half of the time in which a position is read. `None` for anything else, which
/// may be a time all the same.
fn read(text: &str) -> Option<DateTime<Utc>> {
    let bytes: &[u8; LENGTH] = text.as_bytes().try_into().ok()?;
    let is_formed = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
    if !bytes.iter().zip(&FORM).all(is_formed) {
        return None;
    }
    let number = |(at, digits): (usize, usize)| {
        bytes[at..at + digits].iter().fold(0_u32, |number, byte| number * 10 + u32::from(*byte - b'0'))
    };
    let [year, month, day, hour, minute, second, micros] = PLACES.map(number);
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)?;
    Some(date.and_hms_micro_opt(hour, minute, second, micros)?.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_read_as_chrono_reads_it() {
        let seconds = [-1, 0, 951_782_399, 1_709_164_800, 1_772_352_000, 253_402_300_799];
        let nanos = [0, 1, 999, 1_000, 123_456_789, 999_999_999];
        for time in seconds.into_iter().flat_map(|s| nanos.map(|n| DateTime::from_timestamp(s, n).unwrap())) {
            let text = text(&time);
            assert!(read(&text).is_some_and(|read| Ok(read) == text.parse::<DateTime<Utc>>()), "{text}");
            assert_eq!(written(&time).map(|bytes| bytes.to_vec()), Some(text.into_bytes()));
        }
    }

    #[test]
    fn a_leap_second_and_a_year_of_five_digits_are_left_to_chrono() {
        let leap =
            NaiveDate::from_ymd_opt(2026, 6, 30).and_then(|day| day.and_hms_micro_opt(23, 59, 59, 1_000_000)).unwrap();
        assert_eq!(written(&leap.and_utc()), None);
        for year in [-1, 10_000] {
            let day = NaiveDate::from_ymd_opt(year, 1, 1).and_then(|day| day.and_hms_opt(0, 0, 0)).unwrap();
            assert_eq!(written(&day.and_utc()), None);
        }
    }

    #[test]
    fn whatever_is_no_time_of_the_text_form_is_left_to_chrono() {
        for text in [
            "2026-02-29T00:00:00.000000Z",
            "2026-02-28T24:00:00.000000Z",
            "2026-02-28T23:59:60.000000Z",
            "2026-02-28 23:59:59.000000Z",
            "2026-02-28T23:59:59.000000z",
            "2026-02-28T23:59:59.00000Z",
            "2026-02-28T23:59:59.+00000Z",
            "2026-02-28T23:59:59+00:00",
            "",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
