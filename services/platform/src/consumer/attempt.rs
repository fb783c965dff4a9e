//! One attempt to handle a batch: a transaction with the inbox in it, a limit, and no way out for a panic.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use streams::Service;
use tokio::time::timeout;

use super::{Failure, Handler, Received, traced};
use crate::event_metrics::EventPath;
use crate::store::{Retries, Store, StoreError, Tables, Transaction, TransactionError};
use crate::{Platform, kill_point};

/// Limit of one attempt; well inside every ack wait.
const ATTEMPT_WAIT: Duration = Duration::from_secs(20);

/// Runs a handler in transactions.
pub(super) struct Executor<H: Handler> {
    pub(super) platform: Platform,
    pub(super) service: Service,
    pub(super) store: Store<H::Tables>,
    pub(super) handler: H,
}

impl<H: Handler> Executor<H> {
    /// Handles a batch, again after serialization failures as long as `retries` allows. Returns the messages that were not
    /// processed before.
    pub(super) async fn execute<'a>(
        &mut self,
        batch: &[&'a Received],
        path: EventPath,
        retries: &mut Retries,
    ) -> Result<Vec<&'a Received>, Failure> {
        loop {
            match self.attempt_once(batch, path).await {
                Err(failure) if retries.wait_for_next(failure.store_error(), &self.platform.world).await => {}
                outcome => return outcome,
            }
        }
    }

    /// One attempt, after which the handler knows whether it is committed.
    async fn attempt_once<'a>(
        &mut self,
        batch: &[&'a Received],
        path: EventPath,
    ) -> Result<Vec<&'a Received>, Failure> {
        let began_at = self.platform.world.now();
        let transaction = AssertUnwindSafe(self.run_transaction(batch, path)).catch_unwind();
        let failure = match timeout(ATTEMPT_WAIT, transaction).await {
            Ok(Ok(Ok(new))) => {
                if self.platform.spans.is_on() {
                    traced::handled(&self.platform, self.service, &new, began_at);
                }
                self.handler.committed(&new).await;
                return Ok(new);
            }
            Ok(Ok(Err(failure))) => failure,
            // A message that makes the handler panic must not take its neighbours and the whole process with it.
            Ok(Err(_)) => Failure::Permanent("the handler panicked".to_owned()),
            // A handler awaits nothing but the store. If it was the commit that hung, the inbox tells at the next attempt.
            Err(_) => StoreError::Unavailable(format!("not done in {ATTEMPT_WAIT:?}")).into(),
        };
        self.handler.rolled_back();
        // Several that failed are handled one by one.
        if let [received] = batch {
            traced::failed(&self.platform, self.service, received, began_at, &failure);
        }
        Err(failure)
    }

    async fn run_transaction<'a>(
        &mut self,
        batch: &[&'a Received],
        path: EventPath,
    ) -> Result<Vec<&'a Received>, Failure> {
        let is_timer = batch.is_empty();
        if !is_timer && !self.handler.writes(batch) {
            let (now, is_traced) = (self.platform.world.now(), self.platform.spans.is_on());
            self.platform.metrics.events.committed(batch, batch, path, Duration::ZERO, now, is_traced);
            return Ok(batch.to_vec());
        }
        let began_at = self.platform.world.now();
        let mut tx = self.store.begin().await?;
        self.platform.health.set_healthy(&format!("database {}", self.service));
        let new = if H::INBOX { without_duplicates(&mut tx, batch).await? } else { batch.to_vec() };
        if !is_timer {
            kill_point::reached("consumer.before_handler");
        }
        if !new.is_empty() || is_timer {
            self.handler.handle(&mut tx, &new).await?;
            for received in &new {
                tx.put_in_trace(&received.event, &received.trace);
            }
        }
        if !is_timer {
            kill_point::reached("consumer.before_commit");
        }
        tx.commit().await?;
        if !is_timer {
            kill_point::reached("consumer.before_ack");
        }
        let Platform { world, metrics, spans, .. } = &self.platform;
        let now = world.now();
        let took = (now - began_at).to_std().unwrap_or_default();
        metrics.handler_seconds.with_label_values(&[self.service.name()]).observe(took.as_secs_f64());
        metrics.events.committed(batch, &new, path, took, now, spans.is_on());
        Ok(new)
    }
}

/// Records the batch in the inbox, and returns the messages that were not processed before, each once.
async fn without_duplicates<'a, T: Tables>(
    tx: &mut Transaction<T>,
    batch: &[&'a Received],
) -> Result<Vec<&'a Received>, StoreError> {
    let mut by_consumer: Vec<(&str, Vec<&str>)> = Vec::new();
    for received in batch {
        match by_consumer.iter_mut().find(|(consumer, _)| *consumer == received.consumer) {
            Some((_, keys)) => keys.push(received.inbox_key()),
            None => by_consumer.push((&received.consumer, vec![received.inbox_key()])),
        }
    }
    let mut new: HashMap<&str, HashSet<String>> = HashMap::new();
    for (consumer, keys) in by_consumer {
        new.insert(consumer, tx.record_processed(consumer, &keys).await?);
    }
    let mut is_first = |r: &Received| new.get_mut(r.consumer.as_str()).is_some_and(|keys| keys.remove(r.inbox_key()));
    Ok(batch.iter().copied().filter(|received| is_first(received)).collect())
}
