//! The settings of the streams' sizes and ages, and where LOCATION_STREAM is stored.

use std::time::Duration;

use clap::{Args, ValueEnum};
use streams::topology::{ADMIN_STREAM, DEAD_LETTER_STREAM, Storage, Topology};

/// Nobody wants less of a stream: its duplicate window alone needs the ids of five minutes.
const MIN_BYTES: i64 = 1 << 20;
/// The duplicate window of every stream: a stream may not be younger.
const MIN_AGE: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LocationStorage {
    /// In the server's memory: quick, and gone when the server restarts.
    Memory,
    /// On the server's disk.
    File,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sizes of streams")]
pub struct StreamSizes {
    /// The most bytes of the stream, as in `4GiB`, `4GB` or a number [default: 96MiB]. A limit that is higher on the server stays: a lower one would delete
    /// messages.
    #[arg(long, value_name = "BYTES", env = "USER_STREAM_MAX_BYTES", value_parser = bytes, global = true)]
    user_stream_max_bytes: Option<i64>,
    /// The age at which the stream removes a message, as in `12h` or a number of seconds [default: 1d].
    #[arg(long, value_name = "AGE", env = "USER_STREAM_MAX_AGE", value_parser = age, global = true)]
    user_stream_max_age: Option<Duration>,
    /// As above [default: 48MiB]
    #[arg(long, value_name = "BYTES", env = "MATCH_STREAM_MAX_BYTES", value_parser = bytes, global = true)]
    match_stream_max_bytes: Option<i64>,
    /// As above [default: 1h]
    #[arg(long, value_name = "AGE", env = "MATCH_STREAM_MAX_AGE", value_parser = age, global = true)]
    match_stream_max_age: Option<Duration>,
    /// The audit trail: about 4.7 KiB a ride; when it is full, no ride begins [default: 576MiB, 125,000 rides].
    #[arg(long, value_name = "BYTES", env = "RIDE_STREAM_MAX_BYTES", value_parser = bytes, global = true)]
    ride_stream_max_bytes: Option<i64>,
    /// As above [default: 7d]
    #[arg(long, value_name = "AGE", env = "RIDE_STREAM_MAX_AGE", value_parser = age, global = true)]
    ride_stream_max_age: Option<Duration>,
    /// Positions that wait for their consumers: about 860 bytes each. While PostgreSQL is away, all wait: 5 minutes of 5,000 a second
    /// need 1536MiB [default: 192MiB].
    #[arg(long, value_name = "BYTES", env = "LOCATION_STREAM_MAX_BYTES", value_parser = bytes, global = true)]
    location_stream_max_bytes: Option<i64>,
    /// As above [default: 2h]
    #[arg(long, value_name = "AGE", env = "LOCATION_STREAM_MAX_AGE", value_parser = age, global = true)]
    location_stream_max_age: Option<Duration>,
    /// Where positions wait. An existing stream stays where it is [default: memory, or file if the server has no memory for it].
    #[arg(long, value_name = "WHERE", env = "LOCATION_STREAM_STORAGE", global = true)]
    location_stream_storage: Option<LocationStorage>,
    /// As above [default: 32MiB]
    #[arg(long, value_name = "BYTES", env = "PAYMENT_STREAM_MAX_BYTES", value_parser = bytes, global = true)]
    payment_stream_max_bytes: Option<i64>,
    /// As above [default: 1d]
    #[arg(long, value_name = "AGE", env = "PAYMENT_STREAM_MAX_AGE", value_parser = age, global = true)]
    payment_stream_max_age: Option<Duration>,
    /// As above [default: 48MiB]
    #[arg(long, value_name = "BYTES", env = "DEAD_LETTER_STREAM_MAX_BYTES", value_parser = bytes, global = true)]
    dead_letter_stream_max_bytes: Option<i64>,
    /// As above [default: 30d]
    #[arg(long, value_name = "AGE", env = "DEAD_LETTER_STREAM_MAX_AGE", value_parser = age, global = true)]
    dead_letter_stream_max_age: Option<Duration>,
    /// What operators did: about 750 bytes an act; while it is full, acts are refused [default: 16MiB, 22,000 acts]
    #[arg(long, value_name = "BYTES", env = "ADMIN_STREAM_MAX_BYTES", value_parser = bytes, global = true)]
    admin_stream_max_bytes: Option<i64>,
    /// As above [default: 365d]
    #[arg(long, value_name = "AGE", env = "ADMIN_STREAM_MAX_AGE", value_parser = age, global = true)]
    admin_stream_max_age: Option<Duration>,
}

impl StreamSizes {
    /// The project's topology with these sizes.
    pub fn topology(&self) -> Topology {
        let mut topology = Topology::rideshare();
        for (name, max_bytes, max_age) in [
            ("USER_STREAM", self.user_stream_max_bytes, self.user_stream_max_age),
            ("MATCH_STREAM", self.match_stream_max_bytes, self.match_stream_max_age),
            ("RIDE_STREAM", self.ride_stream_max_bytes, self.ride_stream_max_age),
            ("LOCATION_STREAM", self.location_stream_max_bytes, self.location_stream_max_age),
            ("PAYMENT_STREAM", self.payment_stream_max_bytes, self.payment_stream_max_age),
            (DEAD_LETTER_STREAM, self.dead_letter_stream_max_bytes, self.dead_letter_stream_max_age),
            (ADMIN_STREAM, self.admin_stream_max_bytes, self.admin_stream_max_age),
        ] {
            let Some(stream) = topology.stream_mut(name) else { continue };
            stream.max_bytes = max_bytes.unwrap_or(stream.max_bytes);
            stream.max_age = max_age.unwrap_or(stream.max_age);
            match self.location_stream_storage {
                Some(LocationStorage::File) if name == "LOCATION_STREAM" => stream.storage = Storage::File,
                Some(LocationStorage::Memory) if name == "LOCATION_STREAM" => stream.storage = Storage::Memory,
                _ => {}
            }
        }
        topology
    }
}

/// `4GiB`, `512MiB`, `4GB`, or a number of bytes.
fn bytes(text: &str) -> Result<i64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: i64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => {
            return Err(
                "use a number of bytes, or one with KB, MB, GB, TB, KiB, MiB, GiB or TiB, as in 512MiB".to_owned()
            );
        }
    };
    let bytes = number.parse::<i64>().ok().and_then(|number| number.checked_mul(factor));
    bytes
        .filter(|bytes| *bytes >= MIN_BYTES)
        .ok_or_else(|| "must be at least 1MiB, and less than 8388608TiB".to_owned())
}

/// `90m`, `12h`, `7d`, or a number of seconds.
fn length_of_time(text: &str) -> Result<Duration, humantime::DurationError> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text),
    }
}

fn age(text: &str) -> Result<Duration, String> {
    let age = length_of_time(text)
        .map_err(|error| format!("{error}: use a length of time, as in 12h or 7d, or a number of seconds"))?;
    if age >= MIN_AGE { Ok(age) } else { Err("must be at least 5m, the duplicate window".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Alone {
        #[command(flatten)]
        sizes: StreamSizes,
    }

    fn topology(args: &[&str]) -> Result<Topology, String> {
        let args = std::iter::once("rideshare").chain(args.iter().copied());
        Alone::try_parse_from(args).map(|alone| alone.sizes.topology()).map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_ages_and_storage_are_settings_and_nonsense_is_named() {
        assert_eq!(topology(&[]).unwrap(), Topology::rideshare());
        let changed = topology(&[
            "--ride-stream-max-bytes",
            "4GiB",
            "--ride-stream-max-age",
            "30d",
            "--location-stream-max-bytes",
            "2097152",
            "--location-stream-storage",
            "file",
        ])
        .unwrap();
        let of = |name: &str| changed.streams.iter().find(|stream| stream.name == name).unwrap();
        assert_eq!((of("RIDE_STREAM").max_bytes, of("RIDE_STREAM").max_age.as_secs()), (4 << 30, 30 * 86_400));
        assert_eq!((of("LOCATION_STREAM").max_bytes, of("LOCATION_STREAM").storage), (2 << 20, Storage::File));
        for (text, bytes) in [
            ("268435456", 268_435_456),
            ("4GB", 4_000_000_000),
            ("4 gib", 4 << 30),
            ("1500kB", 1_500_000),
            ("2TB", 2_000_000_000_000),
            ("2097152B", 2 << 20),
        ] {
            let changed = topology(&["--user-stream-max-bytes", text]).unwrap();
            assert_eq!(changed.streams.iter().find(|stream| stream.name == "USER_STREAM").unwrap().max_bytes, bytes);
        }
        for (text, seconds) in [("86400", 86_400), ("300", 300), ("1h 30m", 5_400)] {
            let changed = topology(&["--user-stream-max-age", text]).unwrap();
            let stream = changed.streams.iter().find(|stream| stream.name == "USER_STREAM").unwrap();
            assert_eq!(stream.max_age.as_secs(), seconds);
        }
        for (args, reason) in [
            (["--ride-stream-max-bytes", "4GX"], "MiB"),
            (["--ride-stream-max-bytes", "1KB"], "at least 1MiB"),
            (["--user-stream-max-age", "299"], "at least 5m"),
            (["--ride-stream-max-bytes", "99999999TiB"], "less than"),
            (["--ride-stream-max-bytes", "1000"], "at least 1MiB"),
            (["--ride-stream-max-bytes", "0"], "at least 1MiB"),
            (["--user-stream-max-age", "4m"], "at least 5m"),
            (["--user-stream-max-age", "long"], "as in 12h"),
            (["--location-stream-storage", "tape"], "--location-stream-storage"),
        ] {
            let error = topology(&args).unwrap_err();
            assert!(error.contains(reason), "{args:?}: {error}");
        }
    }

    #[test]
    fn the_default_sizes_fit_into_a_server_of_1_gib_without_memory() {
        let streams = topology(&[]).unwrap().with_sweeper().streams;
        assert!(streams.iter().map(|stream| stream.max_bytes).sum::<i64>() <= 1 << 30);
        let memory = streams.iter().filter(|stream| stream.storage != Storage::File).map(|stream| stream.max_bytes);
        assert!(memory.sum::<i64>() <= 256 << 20);
    }
}
