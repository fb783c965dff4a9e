//! Reading a stream in order through an ephemeral, ordered consumer.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use chrono::DateTime;
use futures_util::{FutureExt, StreamExt};
use tokio::time::timeout;

use super::client::{NatsBus, from_nats};
use crate::bus::message::{BusError, ReplayStart, StoredMessage};

/// Reads a stream in order.
pub struct Replay {
    messages: pull::Ordered,
    /// Messages stored after the last one read, as the server reported with it.
    pending: u64,
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").finish_non_exhaustive()
    }
}

impl Replay {
    pub(crate) async fn open(
        bus: &NatsBus,
        stream: &str,
        filter: Option<&str>,
        start: ReplayStart,
    ) -> Result<Self, BusError> {
        let unavailable = |e: &dyn fmt::Display| BusError::Unavailable(format!("replay of {stream}: {e}"));
        let end = bus.stream_info(stream).await?.last_sequence + 1;
        let found = bus.jetstream.get_stream_no_info(stream).await.map_err(|e| unavailable(&e))?;
        let deliver_policy = match start {
            ReplayStart::Sequence(sequence) => {
                DeliverPolicy::ByStartSequence { start_sequence: sequence.clamp(1, end) }
            }
            // The server counts nanoseconds in 64 bits. It takes a time beyond them, after the year 2262, for the beginning.
            ReplayStart::Time(time) => {
                DeliverPolicy::ByStartTime { start_time: time.min(DateTime::from_timestamp_nanos(i64::MAX)) }
            }
        };
        let config = pull::OrderedConfig {
            filter_subject: filter.unwrap_or_default().to_owned(),
            deliver_policy,
            ..Default::default()
        };
        let consumer = found.create_consumer(config).await.map_err(|e| unavailable(&e))?;
        let pending = consumer.cached_info().num_pending;
        let messages = consumer.messages().await.map_err(|e| unavailable(&e))?;
        Ok(Self { messages, pending })
    }

    pub(crate) async fn next(&mut self, wait: Duration) -> Result<Option<StoredMessage>, BusError> {
        match timeout(wait, self.messages.next()).await {
            Err(_) => Ok(None),
            Ok(next) => self.decode(next).map(Some),
        }
    }

    /// The next message if it has already arrived.
    pub(crate) fn ready(&mut self) -> Result<Option<StoredMessage>, BusError> {
        match self.messages.next().now_or_never() {
            None => Ok(None),
            Some(next) => self.decode(next).map(Some),
        }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.pending == 0
    }

    fn decode(
        &mut self,
        next: Option<Result<jetstream::Message, pull::OrderedError>>,
    ) -> Result<StoredMessage, BusError> {
        let next = next.ok_or_else(|| BusError::Unavailable("the replay ended".to_owned()))?;
        let message = next.map_err(|e| BusError::Unavailable(e.to_string()))?;
        let info = message.info().map_err(|e| BusError::Refused(e.to_string()))?;
        let (sequence, stored_at) = (info.stream_sequence, info.published);
        self.pending = info.pending;
        let message = message.message;
        Ok(StoredMessage {
            subject: message.subject.into_string(),
            headers: from_nats(message.headers),
            payload: message.payload,
            sequence,
            stored_at,
        })
    }
}
