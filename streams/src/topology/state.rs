//! What a server has of a topology at one moment.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::bus::message::{BusError, ConsumerInfo, StreamInfo};

/// The streams and consumers of a topology as a server had them, see [`Bus::observe`](crate::Bus::observe).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopologyState {
    streams: BTreeMap<String, StreamState>,
    consumers: BTreeMap<(String, String), ConsumerState>,
    /// One sentence for each stream or consumer that is missing, and for each setting that differs; as
    /// [`Bus::compare`](crate::Bus::compare) returns them. Empty if nothing is to be applied.
    pub differences: Vec<String>,
}

/// A stream that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// By the server's clock; a recreated stream has another one.
    pub created_at: DateTime<Utc>,
    /// Its messages and sequences.
    pub info: StreamInfo,
}

/// A durable consumer that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerState {
    /// By the server's clock; a recreated consumer has another one.
    pub created_at: DateTime<Utc>,
    /// Its lag.
    pub info: ConsumerInfo,
}

impl TopologyState {
    pub(crate) fn add_stream(&mut self, name: &str, state: StreamState) {
        self.streams.insert(name.to_owned(), state);
    }

    pub(crate) fn add_consumer(&mut self, stream: &str, durable: &str, state: ConsumerState) {
        self.consumers.insert((stream.to_owned(), durable.to_owned()), state);
    }

    /// A stream of the topology.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if it was missing.
    pub fn stream(&self, name: &str) -> Result<&StreamState, BusError> {
        self.streams.get(name).ok_or_else(|| BusError::NotFound(format!("stream {name}")))
    }

    /// A consumer of the topology.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if it was missing.
    pub fn consumer(&self, stream: &str, durable: &str) -> Result<&ConsumerState, BusError> {
        let found = self.consumers.get(&(stream.to_owned(), durable.to_owned()));
        found.ok_or_else(|| BusError::NotFound(format!("consumer {durable} on {stream}")))
    }

    /// The newest creation time of a stream and these consumers of it.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if one of them was missing.
    pub fn created_at(&self, stream: &str, durables: &[&str]) -> Result<DateTime<Utc>, BusError> {
        let mut created_at = self.stream(stream)?.created_at;
        for durable in durables {
            created_at = created_at.max(self.consumer(stream, durable)?.created_at);
        }
        Ok(created_at)
    }
}
