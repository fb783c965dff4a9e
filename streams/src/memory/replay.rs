//! Reading a stream in order.

use std::time::Duration;

use tokio::sync::futures::OwnedNotified;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::bus::{MemoryBus, notified_by};
use crate::bus::message::{BusError, ReplayStart, StoredMessage};

/// Reads a stream in order.
#[derive(Debug)]
pub struct Replay {
    bus: MemoryBus,
    stream: String,
    incarnation: u64,
    filter: Option<String>,
    /// The stream sequence from which to look for the next message.
    next: u64,
}

impl Replay {
    pub(crate) fn open(
        bus: &MemoryBus,
        stream: &str,
        filter: Option<&str>,
        start: ReplayStart,
    ) -> Result<Self, BusError> {
        bus.with(|server, _| {
            let found = server.stream(stream)?;
            let next = match start {
                ReplayStart::Sequence(sequence) => sequence.clamp(1, found.last() + 1),
                ReplayStart::Time(time) => found.sequence_at(time),
            };
            let (stream, filter) = (stream.to_owned(), filter.map(str::to_owned));
            Ok(Self { bus: bus.clone(), stream, incarnation: found.incarnation, filter, next })
        })
    }

    /// The next message, or the notification of new ones.
    fn step(&mut self) -> Result<Result<StoredMessage, OwnedNotified>, BusError> {
        self.bus.with(|server, _| {
            let stream = server.stream(&self.stream)?;
            if stream.incarnation != self.incarnation {
                return Err(BusError::NotFound(format!("stream {}, which was recreated", self.stream)));
            }
            Ok(match stream.next_message(self.next, self.filter.as_deref()) {
                Some(message) => {
                    self.next = message.sequence + 1;
                    Ok(message.clone())
                }
                None => {
                    self.next = stream.last() + 1;
                    Err(stream.stored.clone().notified_owned())
                }
            })
        })
    }

    /// The next message if it is already stored.
    pub(crate) fn ready(&mut self) -> Result<Option<StoredMessage>, BusError> {
        Ok(self.step()?.ok())
    }

    pub(crate) fn is_at_end(&self) -> bool {
        let more = self.bus.with(|server, _| {
            let stream = server.stream(&self.stream)?;
            let same = stream.incarnation == self.incarnation;
            Ok::<_, BusError>(same && stream.next_message(self.next, self.filter.as_deref()).is_some())
        });
        !more.unwrap_or(false)
    }

    pub(crate) async fn next(&mut self, wait: Duration) -> Result<Option<StoredMessage>, BusError> {
        consume_budget().await;
        let until = Instant::now() + wait;
        loop {
            match self.step()? {
                Ok(message) => return Ok(Some(message)),
                Err(stored) => {
                    if !notified_by(stored, until).await {
                        return Ok(None);
                    }
                }
            }
        }
    }
}
