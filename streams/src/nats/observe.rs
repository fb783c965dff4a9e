//! The state of a whole topology, in two requests for each stream: its info, and the list of its consumers. (With a user who may
//! not list consumers, in one request for each consumer instead.)
//!
//! Streams are asked concurrently, and each for itself: in a cluster one may have lost its leader while the others answer.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use async_nats::jetstream;
use futures_util::future::join_all;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::{NatsBus, consumer_info, stream_info};
use crate::bus::message::BusError;
use crate::topology::{self, Consumer, ConsumerState, StreamState, Topology, TopologyState};

/// One page of CONSUMER.LIST; the server puts at most 256 consumers into it.
#[derive(Deserialize)]
struct ConsumerPage {
    total: usize,
    #[serde(default)]
    consumers: Option<Vec<Value>>,
    /// In a cluster, consumers whose leader did not answer in time.
    #[serde(default)]
    missing: Option<Vec<String>>,
}

/// The info of a stream or a consumer; `None` if it is missing, an error if it did not answer.
type Found = Result<Option<Value>, BusError>;

/// A stream with its consumers.
struct Answer {
    stream: Found,
    /// By name; those that are missing are not in it.
    consumers: Result<BTreeMap<String, Result<Value, BusError>>, BusError>,
}

impl NatsBus {
    pub(crate) async fn observe(&self, topology: &Topology) -> Result<TopologyState, BusError> {
        let answers = join_all(topology.streams.iter().map(|stream| self.ask(topology, &stream.name))).await;
        let errors = answers.iter().map(|answer| answer.stream.as_ref().err());
        if let Some(Some(error)) = errors.clone().next()
            && errors.clone().all(|error| error.is_some())
        {
            return Err(BusError::Unavailable(error.to_string()));
        }
        let mut state = TopologyState::default();
        let mut consumers = BTreeMap::new();
        for (stream, answer) in topology.streams.iter().zip(answers) {
            self.add_stream(stream, answer.stream, &mut state);
            consumers.insert(stream.name.as_str(), answer.consumers);
        }
        for consumer in &topology.consumers {
            let found = match consumers.get_mut(consumer.stream.as_str()) {
                Some(Ok(all)) => all.remove(&consumer.durable).transpose(),
                Some(Err(error)) => Err(BusError::Unavailable(error.to_string())),
                None => Ok(None),
            };
            add_consumer(consumer, &self.consumer_config(consumer), found, &mut state);
        }
        Ok(state)
    }

    /// The stream first: its consumers then stand where it stood, or further on.
    async fn ask(&self, topology: &Topology, stream: &str) -> Answer {
        let found = match self.api::<Value>(&format!("STREAM.INFO.{stream}"), &json!({})).await {
            Err(BusError::NotFound(_)) => Ok(None),
            found => found.map(Some),
        };
        let consumers = match &found {
            Ok(Some(_)) => self.consumers_of(topology, stream).await,
            Ok(None) => Ok(BTreeMap::new()),
            Err(error) => Err(BusError::Unavailable(error.to_string())),
        };
        Answer { stream: found, consumers }
    }

    fn add_stream(&self, stream: &topology::Stream, found: Found, state: &mut TopologyState) {
        let what = format!("stream {}", stream.name);
        let info = read::<jetstream::stream::Info>(&what, &found);
        if let Some(info) = info {
            let info = info.map(|info| StreamState { created_at: info.created, info: stream_info(&info) });
            state.set_stream(&stream.name, info);
        }
        if let Ok(found) = found {
            let config = found.map(|mut found| found["config"].take());
            topology::difference(&what, config, &self.config_of(stream), &mut state.differences);
        }
    }

    /// The infos of a stream's consumers: listed, or, if the server does not let this user list them, one by one. A server does
    /// not answer what it does not permit.
    async fn consumers_of(
        &self,
        topology: &Topology,
        stream: &str,
    ) -> Result<BTreeMap<String, Result<Value, BusError>>, BusError> {
        let unlisted = if self.lists_nothing.load(Ordering::Relaxed) {
            None
        } else {
            match self.list_consumers(stream).await {
                Err(error @ BusError::Unavailable(_)) => Some(error),
                listed => return listed,
            }
        };
        let own = topology.consumers.iter().filter(|consumer| consumer.stream == stream);
        let infos = join_all(own.map(async |consumer| {
            let subject = format!("CONSUMER.INFO.{stream}.{}", consumer.durable);
            (consumer.durable.clone(), self.api::<Value>(&subject, &json!({})).await)
        }))
        .await;
        let is_answered = infos.iter().any(|(_, info)| !matches!(info, Err(BusError::Unavailable(_))));
        match unlisted {
            Some(error) if !is_answered => return Err(error),
            Some(_) => self.lists_nothing.store(true, Ordering::Relaxed),
            None => {}
        }
        let missing = |info: &Result<Value, BusError>| matches!(info, Err(BusError::NotFound(_)));
        Ok(infos.into_iter().filter(|(_, info)| !missing(info)).collect())
    }

    /// The info of all consumers of a stream.
    async fn list_consumers(&self, stream: &str) -> Result<BTreeMap<String, Result<Value, BusError>>, BusError> {
        let subject = format!("CONSUMER.LIST.{stream}");
        let mut all = BTreeMap::new();
        let mut offset = 0;
        loop {
            let page: ConsumerPage = match self.api(&subject, &json!({"offset": offset})).await {
                Ok(page) => page,
                Err(BusError::NotFound(_)) => return Ok(BTreeMap::new()),
                Err(error) => return Err(error),
            };
            for name in page.missing.unwrap_or_default() {
                let error = BusError::Unavailable(format!("consumer {name} on {stream} does not answer"));
                all.insert(name, Err(error));
            }
            let consumers = page.consumers.unwrap_or_default();
            offset += consumers.len();
            let is_last = consumers.is_empty() || offset >= page.total;
            for consumer in consumers {
                if let Some(name) = consumer["name"].as_str() {
                    all.insert(name.to_owned(), Ok(consumer));
                }
            }
            if is_last {
                return Ok(all);
            }
        }
    }
}

fn add_consumer(consumer: &Consumer, wanted: &Value, found: Found, state: &mut TopologyState) {
    let Consumer { stream, durable, .. } = consumer;
    let what = format!("consumer {durable} on {stream}");
    let info = read::<jetstream::consumer::Info>(&what, &found);
    if let Some(info) = info {
        let info = info.map(|info| ConsumerState { created_at: info.created, info: consumer_info(&info) });
        state.set_consumer(stream, durable, info);
    }
    if let Ok(found) = found {
        let config = found.map(|mut found| found["config"].take());
        topology::difference(&what, config, wanted, &mut state.differences);
    }
}

/// The info, or why it is not known; `None` if it is missing on the server.
fn read<T: DeserializeOwned>(what: &str, found: &Found) -> Option<Result<T, String>> {
    match found {
        Ok(None) => None,
        Ok(Some(value)) => Some(T::deserialize(value).map_err(|e| format!("{what}: its info cannot be read: {e}"))),
        Err(error) => Some(Err(format!("{what}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_does_not_answer_is_neither_missing_nor_different() {
        let mut topology = Topology::rideshare();
        let consumer = topology.consumers.remove(0);
        let mut state = TopologyState::default();
        add_consumer(&consumer, &consumer.to_json(), Err(BusError::Unavailable("no answer".to_owned())), &mut state);
        let found = state.consumer(&consumer.stream, &consumer.durable);
        assert!(matches!(found, Err(BusError::Unavailable(_))), "{found:?}");
        assert_eq!(state.differences, Vec::<String>::new());
        assert!(state.first_unavailable().is_some_and(|why| why.contains("no answer")));

        let mut state = TopologyState::default();
        add_consumer(&consumer, &consumer.to_json(), Ok(None), &mut state);
        let found = state.consumer(&consumer.stream, &consumer.durable);
        assert!(matches!(found, Err(BusError::NotFound(_))), "{found:?}");
        assert_eq!((state.differences.len(), state.first_unavailable()), (1, None));
    }
}
