//! The state of a whole topology, in two requests for each stream: its info, and the list of its consumers.

use std::collections::BTreeMap;

use async_nats::jetstream;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{NatsBus, consumer_info, stream_info};
use crate::bus::message::BusError;
use crate::topology::{self, ConsumerState, Stream, StreamState, Topology, TopologyState};

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

impl NatsBus {
    pub(crate) async fn observe(&self, topology: &Topology) -> Result<TopologyState, BusError> {
        let mut state = TopologyState::default();
        let mut consumers = BTreeMap::new();
        for stream in &topology.streams {
            let found = self.observe_stream(stream, &mut state).await?;
            let what = format!("stream {}", stream.name);
            topology::difference(&what, found, &self.config_of(stream), &mut state.differences);
            consumers.insert(stream.name.as_str(), self.list_consumers(&stream.name).await?);
        }
        for consumer in &topology.consumers {
            let found = consumers.get_mut(consumer.stream.as_str()).and_then(|all| all.remove(&consumer.durable));
            let found = match found {
                None => None,
                Some(mut value) => {
                    let config = value["config"].clone();
                    let info: jetstream::consumer::Info = serde_json::from_value(value.take())
                        .map_err(|e| BusError::Unavailable(format!("consumer {}: {e}", consumer.durable)))?;
                    let info = ConsumerState { created_at: info.created, info: consumer_info(&info) };
                    state.add_consumer(&consumer.stream, &consumer.durable, info);
                    Some(config)
                }
            };
            let what = format!("consumer {} on {}", consumer.durable, consumer.stream);
            topology::difference(&what, found, &consumer.to_json(), &mut state.differences);
        }
        Ok(state)
    }

    /// Adds the stream to `state`, and returns its configuration; `None` if it is missing.
    async fn observe_stream(&self, stream: &Stream, state: &mut TopologyState) -> Result<Option<Value>, BusError> {
        let value = match self.api::<Value>(&format!("STREAM.INFO.{}", stream.name), &json!({})).await {
            Ok(value) => value,
            Err(BusError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let config = value["config"].clone();
        let info: jetstream::stream::Info =
            serde_json::from_value(value).map_err(|e| BusError::Unavailable(format!("stream {}: {e}", stream.name)))?;
        state.add_stream(&stream.name, StreamState { created_at: info.created, info: stream_info(&info) });
        Ok(Some(config))
    }

    /// The info of all consumers of a stream, by name; none if the stream is missing.
    async fn list_consumers(&self, stream: &str) -> Result<BTreeMap<String, Value>, BusError> {
        let subject = format!("CONSUMER.LIST.{stream}");
        let mut all = BTreeMap::new();
        let mut offset = 0;
        loop {
            let page: ConsumerPage = match self.api(&subject, &json!({"offset": offset})).await {
                Ok(page) => page,
                Err(BusError::NotFound(_)) => return Ok(BTreeMap::new()),
                Err(error) => return Err(error),
            };
            // Not to be taken for deleted: nobody knows.
            if let Some(name) = page.missing.unwrap_or_default().first() {
                return Err(BusError::Unavailable(format!("{subject}: consumer {name} does not answer")));
            }
            let consumers = page.consumers.unwrap_or_default();
            offset += consumers.len();
            let is_last = consumers.is_empty() || offset >= page.total;
            for consumer in consumers {
                if let Some(name) = consumer["name"].as_str() {
                    all.insert(name.to_owned(), consumer);
                }
            }
            if is_last {
                return Ok(all);
            }
        }
    }
}
