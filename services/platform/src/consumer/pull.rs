//! Pulling from one consumer without an end: through restarts of the server, and through deletions of the consumer.

use std::time::Duration;

use streams::bus::Puller;
use streams::topology::Consumer;
use streams::{BusError, Delivery};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::{CancellationToken, Platform, retry};

/// How long one fetch waits for a first message. The pull request of an idle consumer outlives it.
const PULL_WAIT: Duration = Duration::from_secs(5);

/// The name of the consumer's part in health.
pub(crate) fn health_part(consumer: &Consumer) -> String {
    format!("consumer {}", consumer.durable)
}

/// Makes the server redeliver at once what is not handled.
pub(crate) async fn put_back(deliveries: &[Delivery]) {
    for delivery in deliveries {
        let _ = delivery.retry(Duration::ZERO).await;
    }
}

/// Pulls batches of one consumer into a channel.
pub(crate) struct Pulling {
    pub(crate) platform: Platform,
    pub(crate) consumer: Consumer,
    pub(crate) batch_max: usize,
}

impl Pulling {
    /// Pulls until `stop` has begun or the channel is closed.
    pub(crate) async fn run(self, to: mpsc::Sender<Vec<Delivery>>, stop: CancellationToken) {
        let health = &self.platform.health;
        let part = health_part(&self.consumer);
        let mut delays = retry::dependency();
        let mut puller: Option<Puller> = None;
        health.set_healthy(&part);
        loop {
            let fetched = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = to.closed() => break,
                fetched = self.fetch(&mut puller) => fetched,
            };
            match fetched {
                Ok(deliveries) => {
                    health.set_healthy(&part);
                    delays.reset();
                    if deliveries.is_empty() {
                        continue;
                    }
                    if let Err(unsent) = to.send(deliveries).await {
                        put_back(&unsent.0).await;
                        break;
                    }
                }
                Err(error) => {
                    // An unhealthy consumer makes the topology reconciler look at once, and recreate what is missing.
                    health.set_unhealthy(&part, error.to_string());
                    tracing::warn!(%error, consumer = self.consumer.durable, "cannot pull");
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        () = to.closed() => break,
                        () = sleep(delays.next_delay()) => {}
                    }
                }
            }
        }
        if let Some(puller) = puller {
            puller.close().await;
        }
    }

    async fn fetch(&self, puller: &mut Option<Puller>) -> Result<Vec<Delivery>, BusError> {
        if puller.is_none() {
            *puller = Some(self.platform.bus.pull(&self.consumer).await?);
        }
        match puller {
            Some(puller) => puller.fetch(self.batch_max, PULL_WAIT).await,
            None => Ok(Vec::new()),
        }
    }
}
