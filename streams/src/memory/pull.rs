//! Pulling from a durable consumer, and the acknowledgement of what it delivers.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::bus::{MemoryBus, notified_by};
use super::stream::{AckKind, AckResult};
use crate::bus::message::{BusError, Delivered};
use crate::topology::Consumer;

/// Acknowledges one delivery, which its sequences in the stream and in the consumer identify.
#[derive(Debug)]
pub struct AckHandle {
    bus: MemoryBus,
    stream: Arc<str>,
    consumer: Arc<str>,
    sequence: u64,
    consumer_sequence: u64,
}

impl AckHandle {
    /// Has the server act on it; `None` if the consumer is gone.
    fn apply(&self, kind: AckKind) -> Option<AckResult> {
        let Self { bus, stream, consumer, sequence, consumer_sequence } = self;
        bus.with(|server, now| server.acknowledge(stream, consumer, *sequence, *consumer_sequence, kind, now))
    }

    async fn send(&self, kind: AckKind) -> Result<(), BusError> {
        if self.bus.faults.acknowledge().await? {
            self.apply(kind);
        }
        Ok(())
    }

    async fn send_confirmed(&self, kind: AckKind) -> Result<(), BusError> {
        if !self.bus.faults.acknowledge().await? {
            return Err(BusError::Unavailable("no confirmation".to_owned()));
        }
        match self.apply(kind) {
            Some(AckResult::Recorded) => Ok(()),
            // A server sends no confirmation then.
            Some(AckResult::Ignored) => Err(BusError::Unavailable(format!(
                "no confirmation: message {} of {} was not delivered to {}",
                self.sequence, self.stream, self.consumer
            ))),
            None => Err(BusError::NotFound(format!("consumer {} on {}", self.consumer, self.stream))),
        }
    }

    pub(crate) async fn ack(&self) -> Result<(), BusError> {
        self.send(AckKind::Done).await
    }

    pub(crate) async fn ack_confirmed(&self) -> Result<(), BusError> {
        self.send_confirmed(AckKind::Done).await
    }

    pub(crate) async fn retry(&self, delay: Duration) -> Result<(), BusError> {
        self.send(AckKind::Retry(delay)).await
    }

    pub(crate) async fn terminate(&self) -> Result<(), BusError> {
        self.send_confirmed(AckKind::Done).await
    }

    pub(crate) async fn in_progress(&self) -> Result<(), BusError> {
        self.send(AckKind::InProgress).await
    }
}

/// Pulls from one durable consumer.
#[derive(Debug)]
pub struct Puller {
    bus: MemoryBus,
    stream: String,
    durable: String,
}

impl Puller {
    pub(crate) fn open(bus: &MemoryBus, consumer: &Consumer) -> Self {
        Self { bus: bus.clone(), stream: consumer.stream.clone(), durable: consumer.durable.clone() }
    }

    pub(crate) async fn fetch(&mut self, max: usize, wait: Duration) -> Result<Vec<Delivered<AckHandle>>, BusError> {
        consume_budget().await;
        let until = Instant::now() + wait;
        loop {
            self.bus.faults.reach_bus().await?;
            let fetched: Result<Vec<Delivered<AckHandle>>, _> = self.bus.with(|server, now| {
                let assigned = server.assign(&self.stream, &self.durable, max, now)?;
                if assigned.is_empty() {
                    let consumer = server.consumer(&self.stream, &self.durable)?;
                    return Ok(Err(consumer.wake.clone().notified_owned()));
                }
                let (stream, consumer) = server.names(&self.stream, &self.durable)?;
                let deliveries = assigned.into_iter().map(|(assignment, message)| Delivered {
                    message,
                    stream: self.stream.clone(),
                    consumer: self.durable.clone(),
                    deliveries: assignment.deliveries,
                    pending: assignment.pending,
                    ack_handle: AckHandle {
                        bus: self.bus.clone(),
                        stream: stream.clone(),
                        consumer: consumer.clone(),
                        sequence: assignment.sequence,
                        consumer_sequence: assignment.consumer_sequence,
                    },
                });
                Ok(Ok(deliveries.collect()))
            })?;
            match fetched {
                Ok(deliveries) => {
                    let redeliver_after = |delivery: &Delivered<AckHandle>, delay| {
                        delivery.ack_handle.apply(AckKind::Retry(delay));
                    };
                    return Ok(self.bus.faults.deliver(deliveries, redeliver_after).await);
                }
                Err(wake) => {
                    if !notified_by(wake, until).await {
                        return Ok(Vec::new());
                    }
                }
            }
        }
    }
}
