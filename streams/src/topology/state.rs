//! What a server has of a topology at one moment.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::bus::message::{BusError, ConsumerInfo, StreamInfo};

/// The streams and consumers of a topology as a server had them, see [`Bus::observe`](crate::Bus::observe).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Lists", into = "Lists")]
pub struct TopologyState {
    /// Each with its state, or why it is not known. What is missing on the server is missing here.
    streams: BTreeMap<String, Result<StreamState, String>>,
    consumers: BTreeMap<(String, String), Result<ConsumerState, String>>,
    /// One sentence for each stream or consumer that is missing, and for each setting that differs; as
    /// [`Bus::compare`](crate::Bus::compare) returns them. Empty if nothing is to be applied. A stream or consumer that did not
    /// answer is no difference.
    pub differences: Vec<String>,
}

/// A state on its way to another process: JSON has no pairs as keys.
#[derive(Serialize, Deserialize)]
struct Lists {
    streams: Vec<(String, Result<StreamState, String>)>,
    consumers: Vec<((String, String), Result<ConsumerState, String>)>,
    differences: Vec<String>,
}

impl From<Lists> for TopologyState {
    fn from(Lists { streams, consumers, differences }: Lists) -> Self {
        Self { streams: streams.into_iter().collect(), consumers: consumers.into_iter().collect(), differences }
    }
}

impl From<TopologyState> for Lists {
    fn from(TopologyState { streams, consumers, differences }: TopologyState) -> Self {
        Self { streams: streams.into_iter().collect(), consumers: consumers.into_iter().collect(), differences }
    }
}

/// A stream that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// By the server's clock; a recreated stream has another one.
    pub created_at: DateTime<Utc>,
    /// Its messages and sequences.
    pub info: StreamInfo,
}

/// A durable consumer that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerState {
    /// By the server's clock; a recreated consumer has another one.
    pub created_at: DateTime<Utc>,
    /// Its lag.
    pub info: ConsumerInfo,
}

impl TopologyState {
    /// Records a stream that exists, or why its state is not known.
    pub fn set_stream(&mut self, name: &str, state: Result<StreamState, String>) {
        self.streams.insert(name.to_owned(), state);
    }

    /// Records a consumer that exists, or why its state is not known.
    pub fn set_consumer(&mut self, stream: &str, durable: &str, state: Result<ConsumerState, String>) {
        self.consumers.insert((stream.to_owned(), durable.to_owned()), state);
    }

    /// A stream of the topology.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if it was missing, [`BusError::Unavailable`] if it did not answer.
    pub fn stream(&self, name: &str) -> Result<&StreamState, BusError> {
        known(self.streams.get(name), || format!("stream {name}"))
    }

    /// A consumer of the topology.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if it was missing, [`BusError::Unavailable`] if it did not answer.
    pub fn consumer(&self, stream: &str, durable: &str) -> Result<&ConsumerState, BusError> {
        let found = self.consumers.get(&(stream.to_owned(), durable.to_owned()));
        known(found, || format!("consumer {durable} on {stream}"))
    }

    /// Why the first of the streams and consumers that did not answer is not known; `None` if all answered.
    pub fn first_unavailable(&self) -> Option<&str> {
        let streams = self.streams.values().filter_map(|state| state.as_ref().err());
        streams.chain(self.consumers.values().filter_map(|state| state.as_ref().err())).next().map(String::as_str)
    }

    /// Whether both have the same streams and consumers, none of them recreated in between, and all of them answered.
    pub fn has_same_identities(&self, other: &Self) -> bool {
        let streams = |state: &Self| -> Option<Vec<_>> {
            state.streams.iter().map(|(name, found)| Some((name.clone(), found.as_ref().ok()?.created_at))).collect()
        };
        let consumers = |state: &Self| -> Option<Vec<_>> {
            state.consumers.iter().map(|(key, found)| Some((key.clone(), found.as_ref().ok()?.created_at))).collect()
        };
        let (mine, theirs) = (streams(self).zip(consumers(self)), streams(other).zip(consumers(other)));
        mine.is_some() && mine == theirs
    }

    /// The newest creation time of a stream and these consumers of it.
    ///
    /// # Errors
    /// [`BusError::NotFound`] if one of them was missing, [`BusError::Unavailable`] if one did not answer.
    pub fn created_at(&self, stream: &str, durables: &[&str]) -> Result<DateTime<Utc>, BusError> {
        let mut created_at = self.stream(stream)?.created_at;
        for durable in durables {
            created_at = created_at.max(self.consumer(stream, durable)?.created_at);
        }
        Ok(created_at)
    }
}

fn known<S>(found: Option<&Result<S, String>>, what: impl FnOnce() -> String) -> Result<&S, BusError> {
    match found {
        Some(Ok(state)) => Ok(state),
        Some(Err(why)) => Err(BusError::Unavailable(why.clone())),
        None => Err(BusError::NotFound(what())),
    }
}
