//! Brings the server's streams and consumers to a topology.
//!
//! A stream that is created stays closed until all of its consumers exist: an interest stream drops what comes before them, and
//! takes the next publish of the same message id for a duplicate. A publish may come at any time, since the client library sends
//! what was under way again as soon as it is connected.

use async_nats::jetstream::ErrorCode;
use serde_json::{Value, json};

use super::client::{NatsBus, api_error};
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
        let mut closed = Vec::new();
        for stream in &topology.streams {
            let mut wanted = self.config_of(stream);
            let found = self.config(&format!("STREAM.INFO.{}", stream.name)).await?;
            // Another process created it and is not done yet, or died before it was.
            let is_closed = found.as_ref().is_none_or(|found| found[MESSAGE_MAX_KEY] == CLOSED_MESSAGE_MAX);
            if is_closed && mode == Mode::Apply {
                wanted[MESSAGE_MAX_KEY] = json!(CLOSED_MESSAGE_MAX);
                closed.push((stream, found.is_none()));
            }
            let change = if found.is_some() { "UPDATE" } else { "CREATE" };
            if let Some(config) = topology::difference(&describe(stream), found, &wanted, &mut changes)
                && mode == Mode::Apply
            {
                self.put_stream(change, stream, config).await?;
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
            if let Some(config) = topology::difference(&what, found, &consumer.to_json(), &mut changes)
                && mode == Mode::Apply
            {
                self.put_consumer(consumer, &config).await?;
            }
        }
        for (stream, is_new) in closed {
            let mut opened = Vec::new();
            let found = self.config(&format!("STREAM.INFO.{}", stream.name)).await?;
            if let Some(config) = topology::difference(&describe(stream), found, &self.config_of(stream), &mut opened) {
                self.put_stream("UPDATE", stream, config).await?;
            }
            // Of a new stream the changes say already that it was created.
            changes.extend(opened.into_iter().filter(|_| !is_new));
        }
        Ok(changes)
    }

    pub(super) async fn put_consumer(&self, consumer: &Consumer, config: &Value) -> Result<(), BusError> {
        let Consumer { stream, durable, filter, .. } = consumer;
        let mut subject = format!("CONSUMER.CREATE.{stream}.{durable}");
        if !filter.is_empty() {
            subject = format!("{subject}.{filter}");
        }
        self.api::<Value>(&subject, &json!({"stream_name": stream, "config": config})).await.map(|_| ())
    }

    /// Creates or updates a stream, on disk if the server has no memory for one that may be there.
    async fn put_stream(&self, change: &str, stream: &topology::Stream, mut config: Value) -> Result<(), BusError> {
        let name = &stream.name;
        let subject = format!("STREAM.{change}.{name}");
        loop {
            let Err(error) = self.api_reply::<Value>(&subject, &config).await? else { return Ok(()) };
            let code = error.error_code();
            if code == ErrorCode::MEMORY_RESOURCES_EXCEEDED
                && stream.storage == Storage::MemoryOrFile
                && config["storage"] == "memory"
            {
                tracing::warn!(stream = name, "the server has no memory for this stream: it is created on disk");
                config["storage"] = json!("file");
                continue;
            }
            let (what, limit) = match code {
                ErrorCode::MEMORY_RESOURCES_EXCEEDED => ("memory", "max_memory_store"),
                ErrorCode::STORAGE_RESOURCES_EXCEEDED => ("file storage", "max_file_store"),
                // Another process has created and opened it since it was found missing. The next try finds it.
                ErrorCode::STREAM_NAME_EXIST => return Err(BusError::Unavailable(format!("{subject}: {error}"))),
                _ => return Err(api_error(&subject, &error)),
            };
            let need = config["max_bytes"].as_i64().unwrap_or_default() >> 20;
            return Err(BusError::Full(format!(
                "{name} needs {need} MiB of {what} on each of {} server(s), and they have less left: {error}. {} \
                 Lower {name}_MAX_BYTES{}, or raise {limit} of the server or the limit of the account",
                self.replicas,
                self.storage_left().await,
                if code == ErrorCode::MEMORY_RESOURCES_EXCEEDED { ", set LOCATION_STREAM_STORAGE=file" } else { "" },
            )));
        }
    }

    /// What the account has of JetStream, as a sentence; empty if the server does not say.
    async fn storage_left(&self) -> String {
        let Ok(info) = self.api::<Value>("INFO", &json!({})).await else { return String::new() };
        let mib = |value: &Value| match value.as_i64() {
            Some(bytes) if bytes >= 0 => format!("{} MiB", bytes >> 20),
            _ => "no".to_owned(),
        };
        format!(
            "The account has reserved {} of file storage (it has {} limit of its own) and {} of memory ({} limit).",
            mib(&info["reserved_storage"]),
            mib(&info["limits"]["max_storage"]),
            mib(&info["reserved_memory"]),
            mib(&info["limits"]["max_memory"]),
        )
    }

    /// The configuration that the server should have.
    pub(super) fn config_of(&self, stream: &topology::Stream) -> Value {
        stream.to_json(self.replicas)
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

fn describe(stream: &topology::Stream) -> String {
    format!("stream {}", stream.name)
}
