//! The limits of a server and of an account: whether the streams of a topology fit, before the first of them is created, and a sentence
//! with the need, the limit and the setting for what is refused.
//!
//! An account's limits are in JetStream's INFO. A server's own are not: those of storage are known only to be too small, and those of
//! unacknowledged messages and of the duplicate window stand in the text of the refusal. The latter two are kept to, with a warning.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::{self, ErrorCode};
use serde_json::{Value, json};

use super::client::{NatsBus, api_error};
use crate::bus::message::BusError;
use crate::topology::{Consumer, Storage, Stream, Topology};

pub(super) const MAX_ACK_PENDING: &str = "max_ack_pending";
pub(super) const DUPLICATE_WINDOW: &str = "duplicate_window";

/// What a topology needs more than the server has of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// Bytes on disk and in memory; those that may be in either count in memory.
    file: i64,
    memory: i64,
    either: i64,
    /// Streams that are missing.
    streams: i64,
    /// The largest of the streams that change, on disk and in memory.
    largest_file: Option<(String, i64)>,
    largest_memory: Option<(String, i64)>,
}

impl Need {
    /// Adds a stream that becomes as `config`; `found` is what the server has of it.
    pub(super) fn add(&mut self, stream: &Stream, found: Option<&Value>, config: &Value) {
        let bytes = |config: &Value| config["max_bytes"].as_i64().unwrap_or_default().max(0);
        let (need, has) = (bytes(config), found.map_or(0, bytes));
        self.streams += i64::from(found.is_none());
        let is_on_disk = config["storage"] == "file";
        let (total, largest) = match (is_on_disk, stream.storage) {
            (true, _) => (&mut self.file, &mut self.largest_file),
            (false, Storage::MemoryOrFile) if found.is_none() => (&mut self.either, &mut self.largest_memory),
            (false, _) => (&mut self.memory, &mut self.largest_memory),
        };
        *total += need - has;
        if need > has && largest.as_ref().is_none_or(|(_, most)| *most < need) {
            *largest = Some((stream.name.clone(), need));
        }
    }

    fn is_nothing(&self) -> bool {
        self.file <= 0 && self.memory <= 0 && self.either <= 0 && self.streams == 0
    }

    /// Why an account of which JetStream says `info` cannot have it.
    fn check(&self, info: &Value, topology: &Topology) -> Result<(), String> {
        let limits = &info["limits"];
        // 0 and −1 are no limit, but of storage, where 0 is none at all.
        let limit = |name: &str| limits[name].as_i64().filter(|limit| *limit > 0);
        let left = |name: &str, reserved: &str| {
            let limit = limits[name].as_i64().filter(|limit| *limit >= 0)?;
            Some((limit, limit - info[reserved].as_i64().unwrap_or_default()))
        };
        let mib = |bytes: i64| bytes.max(0) >> 20;
        let (storage, memory) = (left("max_storage", "reserved_storage"), left("max_memory", "reserved_memory"));
        let goes_to_disk = memory.is_some_and(|(_, left)| self.memory + self.either > left);
        let (in_memory, on_disk) =
            if goes_to_disk { (self.memory, self.file + self.either) } else { (self.memory + self.either, self.file) };
        for (need, has, what, name) in
            [(on_disk, storage, "file storage", "max_file"), (in_memory, memory, "memory", "max_mem")]
        {
            if let Some((limit, left)) = has
                && need > 0
                && need > left
            {
                let all = topology.streams.iter().map(|stream| stream.max_bytes.max(0)).sum();
                return Err(format!(
                    "the streams need {} MiB more of {what} ({} MiB in all), and the account has {} MiB left of its limit of {} MiB. \
                     Lower <STREAM>_MAX_BYTES, or raise {name} of the account",
                    mib(need),
                    mib(all),
                    mib(left),
                    mib(limit),
                ));
            }
        }
        for (largest, limit, name) in [
            (&self.largest_file, limit("storage_max_stream_bytes"), "disk_max_stream_bytes"),
            (&self.largest_memory, limit("memory_max_stream_bytes"), "memory_max_stream_bytes"),
        ] {
            if let (Some((stream, need)), Some(limit)) = (largest, limit)
                && *need > limit
            {
                return Err(format!(
                    "{stream} needs {} MiB, and a stream of the account may have {} MiB. Lower {stream}_MAX_BYTES, or raise {name} of the account",
                    mib(*need),
                    mib(limit),
                ));
            }
        }
        if let Some(limit) = limit("max_streams") {
            let has = info["streams"].as_i64().unwrap_or_default();
            if has + self.streams > limit {
                return Err(format!(
                    "{} streams are needed in all, the account has {has} and lacks {} of them, and may have {limit}. Raise max_streams of the account",
                    topology.streams.len(),
                    self.streams,
                ));
            }
        }
        let (stream, consumers) = most_consumers(topology);
        if let Some(limit) = limit("max_consumers").filter(|limit| consumers > *limit) {
            return Err(format!(
                "{stream} needs {consumers} consumers, and a stream of the account may have {limit}. Raise max_consumers of the account"
            ));
        }
        Ok(())
    }
}

/// The stream with the most consumers, and how many.
fn most_consumers(topology: &Topology) -> (&str, i64) {
    let count = |name: &str| topology.consumers.iter().filter(|consumer| consumer.stream == name).count() as i64;
    let counts = topology.streams.iter().map(|stream| (stream.name.as_str(), count(&stream.name)));
    counts.max_by_key(|(_, count)| *count).unwrap_or_default()
}

/// The limit that the text of a refusal ends with, in Go's words: a number, or a duration in nanoseconds.
fn limit_in(text: &str) -> Option<u64> {
    let limit = text.split("limit of ").nth(1)?.split_whitespace().next()?;
    if let Ok(number) = limit.parse() {
        return Some(number);
    }
    let (mut total, mut rest) = (0.0, limit);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds * 1e9;
        rest = after;
    }
    Some(total as u64)
}

impl NatsBus {
    /// Whether the account may have what is needed. What its limits are not known for is tried.
    ///
    /// # Errors
    /// [`BusError::Refused`] with the need, the limit and the setting.
    pub(super) async fn check_need(&self, need: &Need, topology: &Topology) -> Result<(), BusError> {
        if need.is_nothing() {
            return Ok(());
        }
        match self.api::<Value>("INFO", &json!({})).await {
            Ok(info) => need.check(&info, topology).map_err(BusError::Refused),
            Err(_) => Ok(()),
        }
    }

    /// The configuration that the server should have, as far as its limits are known.
    pub(super) fn config_of(&self, stream: &Stream) -> Value {
        let mut config = stream.to_json(self.replicas);
        self.lower_window(&mut config);
        config
    }

    /// Lowers the duplicate window to what the server allows, as far as that is known.
    pub(super) fn lower_window(&self, config: &mut Value) {
        let limit = self.limits.duplicate_window.load(Ordering::Relaxed);
        if limit > 0 && config[DUPLICATE_WINDOW].as_u64().is_some_and(|window| window > limit) {
            config[DUPLICATE_WINDOW] = json!(limit);
        }
    }

    /// The same of a consumer.
    pub(super) fn consumer_config(&self, consumer: &Consumer) -> Value {
        let mut config = consumer.to_json();
        let limit = self.limits.max_ack_pending.load(Ordering::Relaxed);
        if limit > 0 && consumer.max_ack_pending > limit {
            config[MAX_ACK_PENDING] = json!(limit);
        }
        config
    }

    /// Lowers what the server refuses to its limit, if it says one; false: nothing is to be lowered.
    pub(super) fn lower_to_limit(&self, what: &str, config: &mut Value, error: &jetstream::Error) -> bool {
        let key = match error.error_code() {
            ErrorCode::CONSUMER_MAX_PENDING_ACK_EXCESS => MAX_ACK_PENDING,
            // Of a stream's configuration the server says with this code whatever is wrong.
            ErrorCode::STREAM_INVALID_CONFIG => DUPLICATE_WINDOW,
            _ => return false,
        };
        let Some(limit) = limit_in(&error.to_string()).filter(|limit| *limit > 0) else { return false };
        let Some(wanted) = config[key].as_u64().filter(|wanted| *wanted > limit) else { return false };
        config[key] = json!(limit);
        if key == MAX_ACK_PENDING {
            self.limits.max_ack_pending.store(limit as i64, Ordering::Relaxed);
            tracing::warn!(
                "{what} should have {wanted} unacknowledged messages, and the server allows {limit}: it is limited to these, and slower. \
                 Raise max_ack_pending of the server's limits"
            );
        } else {
            self.limits.duplicate_window.store(limit, Ordering::Relaxed);
            let [wanted, limit] = [wanted, limit].map(Duration::from_nanos);
            tracing::warn!(
                "{what} should recognise duplicates for {wanted:?}, and the server allows {limit:?}: later ones are left to the inboxes. \
                 Raise duplicate_window of the server's limits"
            );
        }
        true
    }

    /// Why the server refused a stream.
    pub(super) async fn refused_stream(
        &self,
        (subject, name): (&str, &str),
        (config, topology): (&Value, &Topology),
        error: &jetstream::Error,
    ) -> BusError {
        let need = config["max_bytes"].as_i64().unwrap_or_default() >> 20;
        let info = self.api::<Value>("INFO", &json!({})).await.unwrap_or_default();
        let of_memory = config["storage"] == "memory";
        let number = |value: &Value| value.as_i64().unwrap_or_default();
        BusError::Refused(match error.error_code() {
            // Another process has created and opened it since it was found missing. The next try finds it.
            ErrorCode::STREAM_NAME_EXIST => return BusError::Unavailable(format!("{subject}: {error}")),
            ErrorCode::MEMORY_RESOURCES_EXCEEDED | ErrorCode::STORAGE_RESOURCES_EXCEEDED => {
                let (what, limit, reserved) = if of_memory {
                    ("memory", "max_memory_store", &info["reserved_memory"])
                } else {
                    ("file storage", "max_file_store", &info["reserved_storage"])
                };
                let reserved = number(reserved) >> 20;
                let in_kind = |stream: &&Stream| of_memory == (stream.storage == Storage::Memory);
                let all: i64 = topology.streams.iter().filter(in_kind).map(|stream| stream.max_bytes.max(0)).sum();
                format!(
                    "{name} needs {need} MiB of {what} on each of {} server(s), and they have less left: {limit} of the server, \
                     which does not say how much that is, is below {} MiB ({reserved} MiB are reserved already). All streams need {} MiB of \
                     it. Lower {name}_MAX_BYTES or that of other streams{}, or raise {limit} of the server or the limit of the account: {error}",
                    self.replicas,
                    reserved + need,
                    all >> 20,
                    if of_memory { ", set LOCATION_STREAM_STORAGE=file" } else { "" },
                )
            }
            ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED => format!(
                "{name} needs {need} MiB, more than a stream of the account may have. Lower {name}_MAX_BYTES, or raise {} of the account: {error}",
                if of_memory { "memory_max_stream_bytes" } else { "disk_max_stream_bytes" },
            ),
            ErrorCode::MAXIMUM_STREAMS_LIMIT => format!(
                "{name} cannot be created: {} streams are needed in all, and the account has {} and may have {}. Raise max_streams of the account: \
                 {error}",
                topology.streams.len(),
                number(&info["streams"]),
                number(&info["limits"]["max_streams"]),
            ),
            _ => return api_error(subject, error),
        })
    }

    /// Why the server refused a consumer.
    pub(super) async fn refused_consumer(
        &self,
        subject: &str,
        consumer: &Consumer,
        error: &jetstream::Error,
    ) -> BusError {
        let Consumer { stream, durable, max_ack_pending, .. } = consumer;
        BusError::Refused(match error.error_code() {
            ErrorCode::MAXIMUM_CONSUMERS_LIMIT => {
                let needed = Topology::rideshare().consumers.iter().filter(|other| other.stream == *stream).count();
                let info = self.api::<Value>("INFO", &json!({})).await.unwrap_or_default();
                let limit = info["limits"]["max_consumers"].as_i64().unwrap_or_default();
                format!(
                    "{durable} cannot be created: {stream} needs {needed} consumers, and a stream of the account may have {limit}. \
                     Raise max_consumers of the account: {error}"
                )
            }
            ErrorCode::CONSUMER_MAX_PENDING_ACK_EXCESS => format!(
                "{durable} needs {max_ack_pending} unacknowledged messages, more than the server allows. Raise max_ack_pending of its limits: \
                 {error}"
            ),
            _ => return api_error(subject, error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_stands_at_the_end_of_a_refusal() {
        for (text, limit) in [
            ("consumer max ack pending exceeds system limit of 10000 (code 400, error code 10121)", Some(10_000)),
            ("duplicates window can not be larger then server limit of 2m0s (code 500)", Some(120_000_000_000)),
            ("limit of 1h0m1.5s", Some(3_601_500_000_000)),
            ("limit of 500ms", Some(500_000_000)),
            ("limit of a day", None),
            ("limit of 3", Some(3)),
            ("stream name already in use", None),
        ] {
            assert_eq!(limit_in(text), limit, "{text}");
        }
    }

    /// The need of a server that has nothing yet.
    fn need(topology: &Topology) -> Need {
        let mut need = Need::default();
        for stream in &topology.streams {
            need.add(stream, None, &stream.to_json(1));
        }
        need
    }

    #[test]
    fn what_an_account_cannot_have_is_named_before_anything_is_created() {
        let topology = Topology::rideshare().with_sweeper();
        let limits = |more: Value| {
            let mut limits = json!({"max_memory": -1, "max_storage": -1, "max_streams": -1, "max_consumers": -1,
                "storage_max_stream_bytes": -1, "memory_max_stream_bytes": -1});
            more.as_object().into_iter().flatten().for_each(|(key, value)| limits[key] = value.clone());
            json!({"limits": limits, "reserved_storage": 16 << 20, "reserved_memory": 0, "streams": 1})
        };
        let refused = |more: Value| need(&topology).check(&limits(more), &topology).err();
        assert_eq!(refused(json!({})), None);
        assert_eq!(
            refused(json!({"max_storage": 2_i64 << 30, "max_memory": 0, "max_streams": 9, "max_consumers": 20})),
            None
        );
        for (more, parts) in [
            (
                json!({"max_storage": 220 << 20}),
                ["832 MiB more of file storage", "204 MiB left of its limit of 220 MiB", "max_file"],
            ),
            (
                json!({"max_storage": 900 << 20, "max_memory": 100 << 20}),
                ["1024 MiB more of file storage", "_MAX_BYTES", "max_file"],
            ),
            (
                json!({"storage_max_stream_bytes": 100 << 20}),
                ["RIDE_STREAM needs 576 MiB", "may have 100 MiB", "RIDE_STREAM_MAX_BYTES"],
            ),
            (json!({"max_streams": 4}), ["8 streams are needed", "may have 4", "max_streams"]),
            (json!({"max_consumers": 5}), ["RIDE_STREAM needs", "may have 5", "max_consumers"]),
        ] {
            let sentence = refused(more.clone()).unwrap_or_default();
            parts.iter().for_each(|part| assert!(sentence.contains(part), "{more}: {sentence}"));
        }
    }

    #[test]
    fn what_is_there_already_needs_nothing_more() {
        let topology = Topology::rideshare();
        let mut need = Need::default();
        for stream in &topology.streams {
            let config = stream.to_json(1);
            need.add(stream, Some(&config), &config);
        }
        assert!(need.is_nothing(), "{need:?}");
        let ride = topology.streams.iter().find(|stream| stream.name == "RIDE_STREAM").expect("it is in the table");
        let (has, mut raised) = (ride.to_json(1), ride.to_json(1));
        raised["max_bytes"] = json!(600 << 20);
        need.add(ride, Some(&has), &raised);
        assert_eq!((need.file, need.streams), (24 << 20, 0));
    }
}
