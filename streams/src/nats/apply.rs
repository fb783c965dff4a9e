//! Brings the server's streams and consumers to a topology.
//!
//! A stream that is created stays closed until all of its consumers exist: an interest stream drops what comes before them, and
//! takes the next publish of the same message id for a duplicate. A publish may come at any time, since the client library sends
//! what was under way again as soon as it is connected.

use async_nats::jetstream::ErrorCode;
use serde_json::{Value, json};

use super::client::NatsBus;
use super::limits::Need;
use crate::bus::message::BusError;
use crate::topology::{self, Consumer, Mode, Storage, Topology};

/// The largest message of a closed stream, bytes with headers: every message of this system is larger.
const CLOSED_MESSAGE_MAX: i32 = 1;
const MESSAGE_MAX_KEY: &str = "max_msg_size";

impl NatsBus {
    pub(crate) async fn apply(&self, topology: &Topology) -> Result<Vec<String>, BusError> {
        self.reconcile(topology, Mode::Apply).await
    }

    pub(crate) async fn compare(&self, topology: &Topology) -> Result<Vec<String>, BusError> {
        self.reconcile(topology, Mode::Compare).await
    }

    async fn reconcile(&self, topology: &Topology, mode: Mode) -> Result<Vec<String>, BusError> {
        let mut changes = Vec::new();
        let (mut closed, mut puts, mut need) = (Vec::new(), Vec::new(), Need::default());
        for stream in &topology.streams {
            let mut wanted = self.config_of(stream);
            let found = self.config(&format!("STREAM.INFO.{}", stream.name)).await?;
            // Another process created it and is not done yet, or died before it was.
            let is_closed = found.as_ref().is_none_or(|found| found[MESSAGE_MAX_KEY] == CLOSED_MESSAGE_MAX);
            if is_closed && mode == Mode::Apply {
                wanted[MESSAGE_MAX_KEY] = json!(CLOSED_MESSAGE_MAX);
                closed.push((stream, found.is_none()));
            }
            if let Some(config) = change(stream, found.clone(), &wanted, &mut changes) {
                need.add(stream, found.as_ref(), &config);
                puts.push((stream, found.is_some(), config));
            }
        }
        if mode == Mode::Apply {
            self.check_need(&need, topology).await?;
            // First those that exist, which may become smaller, and then the largest: where it does not fit, nothing has been created.
            puts.sort_by_key(|(_, exists, config)| (!exists, -config["max_bytes"].as_i64().unwrap_or_default()));
            for (stream, exists, config) in puts {
                self.put_stream(if exists { "UPDATE" } else { "CREATE" }, stream, config, topology).await?;
            }
        }
        for consumer in &topology.consumers {
            let Consumer { stream, durable, .. } = consumer;
            let what = format!("consumer {durable} on {stream}");
            let found = match self.config(&format!("CONSUMER.INFO.{stream}.{durable}")).await {
                // If its stream is missing, which a comparison does not create, so is the consumer.
                Err(BusError::NotFound(_)) => None,
                found => found?,
            };
            if let Some(config) = topology::difference(&what, found, &self.consumer_config(consumer), &mut changes)
                && mode == Mode::Apply
            {
                self.put_consumer(consumer, config).await?;
            }
        }
        for (stream, is_new) in closed {
            let mut opened = Vec::new();
            let found = self.config(&format!("STREAM.INFO.{}", stream.name)).await?;
            if let Some(config) = change(stream, found, &self.config_of(stream), &mut opened) {
                self.put_stream("UPDATE", stream, config, topology).await?;
            }
            // Of a new stream the changes say already that it was created.
            changes.extend(opened.into_iter().filter(|_| !is_new));
        }
        Ok(changes)
    }

    pub(super) async fn put_consumer(&self, consumer: &Consumer, mut config: Value) -> Result<(), BusError> {
        let Consumer { stream, durable, filter, .. } = consumer;
        let mut subject = format!("CONSUMER.CREATE.{stream}.{durable}");
        if !filter.is_empty() {
            subject = format!("{subject}.{filter}");
        }
        // Lowered to a limit at most once: then it is not above it.
        loop {
            let request = json!({"stream_name": stream, "config": config});
            let Err(error) = self.api_reply::<Value>(&subject, &request).await? else { return Ok(()) };
            if !self.lower_to_limit(durable, &mut config, &error) {
                return Err(self.refused_consumer(&subject, consumer, &error).await);
            }
        }
    }

    /// Creates or updates a stream, on disk if the server has no memory for one that may be there.
    async fn put_stream(
        &self,
        change: &str,
        stream: &topology::Stream,
        mut config: Value,
        topology: &Topology,
    ) -> Result<(), BusError> {
        let name = &stream.name;
        let subject = format!("STREAM.{change}.{name}");
        // Another stream may have shown the limit.
        self.lower_window(&mut config);
        // Each repetition has a setting that the server refused no more: at most two.
        loop {
            let Err(error) = self.api_reply::<Value>(&subject, &config).await? else { return Ok(()) };
            if error.error_code() == ErrorCode::MEMORY_RESOURCES_EXCEEDED
                && stream.storage == Storage::MemoryOrFile
                && config["storage"] == "memory"
            {
                tracing::warn!(stream = name, "the server has no memory for this stream: it is created on disk");
                config["storage"] = json!("file");
            } else if !self.lower_to_limit(name, &mut config, &error) {
                return Err(self.refused_stream((&subject, name), (&config, topology), &error).await);
            }
        }
    }

    /// The configuration that the server has, or `None`.
    async fn config(&self, subject: &str) -> Result<Option<Value>, BusError> {
        match self.api::<Value>(subject, &json!({})).await {
            Ok(mut info) => Ok(Some(info["config"].take())),
            Err(BusError::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// The configuration to send, see [`topology::difference`]. A stream that was never opened holds nothing, so its limits are not kept: it is left
/// over from a start that failed, perhaps because they were too high.
fn change(stream: &topology::Stream, found: Option<Value>, wanted: &Value, changes: &mut Vec<String>) -> Option<Value> {
    let Some(mut config) = found.clone().filter(|found| found[MESSAGE_MAX_KEY] == CLOSED_MESSAGE_MAX) else {
        return topology::difference(&describe(stream), found, wanted, changes);
    };
    let mut is_lowered = false;
    for limit in ["max_bytes", "max_age"] {
        if config[limit].as_i64() > wanted[limit].as_i64() {
            changes.push(format!("{}: {limit} was {}, becomes {}", describe(stream), config[limit], wanted[limit]));
            config[limit] = wanted[limit].clone();
            is_lowered = true;
        }
    }
    topology::difference(&describe(stream), Some(config.clone()), wanted, changes).or(is_lowered.then_some(config))
}

fn describe(stream: &topology::Stream) -> String {
    format!("stream {}", stream.name)
}
