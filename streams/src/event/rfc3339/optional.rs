//! A time that may be absent. For `#[serde(default, with = "rfc3339::optional")]`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serializer};

use crate::event::rfc3339;

/// Writes a time as [`text`](rfc3339::text) does, and `None` as null.
pub fn serialize<S: Serializer>(time: &Option<DateTime<Utc>>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339::serialize(time, to),
        None => to.serialize_none(),
    }
}

/// Reads a time as [`deserialize`](rfc3339::deserialize) does, and null as `None`.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    #[derive(Deserialize)]
    struct Time(#[serde(with = "rfc3339")] DateTime<Utc>);
    Ok(Option::<Time>::deserialize(from)?.map(|Time(time)| time))
}
