//! A bounded question to another service, by a core request: with a breaker, so that nobody waits for what does not answer, a wait, and a
//! number of questions at once. Nothing follows from it: without an answer the asker shows what it knows by itself.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use streams::BusError;
use tokio::sync::Semaphore;

use crate::breaker::Rules;
use crate::{Breaker, Platform};

/// What is asked where; shared by all who ask it in a process.
#[derive(Debug)]
pub struct Asking {
    platform: Platform,
    breaker: Breaker,
    permits: Semaphore,
    subject: &'static str,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// Nobody has the question: too much is asked, the breaker is open, or nobody is there. Nothing comes of it.
    NotAsked,
    /// Somebody may have it, and may still do what it asks for.
    NoReply,
}

impl Asking {
    /// `name` is that of the breaker, in health and metrics; of more than `in_flight_max` questions at once the others get no answer.
    pub fn new(
        platform: &Platform,
        name: &'static str,
        rules: Rules,
        subject: &'static str,
        in_flight_max: usize,
    ) -> Self {
        let breaker = Breaker::new(platform, name, rules);
        Self { platform: platform.clone(), breaker, permits: Semaphore::new(in_flight_max), subject }
    }

    /// The answer, as JSON; `None` if it does not come within `wait`, or too much is asked.
    pub async fn ask<A: DeserializeOwned>(&self, request: &impl Serialize, wait: Duration) -> Option<A> {
        let request = serde_json::to_vec(request).expect("a request has string keys and finite numbers");
        self.ask_bytes(request.into(), wait).await.ok()
    }

    /// The same with a request that is made already.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn ask_bytes<A: DeserializeOwned>(&self, request: Bytes, wait: Duration) -> Result<A, Unanswered> {
        let _permit = self.permits.try_acquire().map_err(|_| Unanswered::NotAsked)?;
        if !self.breaker.admits() {
            return Err(Unanswered::NotAsked);
        }
        let (why, error) = match self.platform.bus.request(self.subject, request, wait).await {
            Ok(reply) => match serde_json::from_slice(&reply) {
                Ok(answer) => {
                    self.breaker.succeeded();
                    return Ok(answer);
                }
                Err(error) => (Unanswered::NoReply, error.to_string()),
            },
            Err(error @ BusError::NoResponders(_)) => (Unanswered::NotAsked, error.to_string()),
            Err(error) => (Unanswered::NoReply, error.to_string()),
        };
        self.breaker.failed();
        tracing::debug!(error, subject = self.subject, "a question to another service was not answered");
        Err(why)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use streams::Bus;
    use streams::memory::MemoryBus;
    use tokio::time::timeout;

    use super::*;
    use crate::World;

    const WAIT: Duration = Duration::from_millis(500);

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_asked_no_more_for_a_while_and_too_many_questions_are_not_asked() {
        let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1);
        let platform = Platform::new(world.clone(), Bus::Memory(MemoryBus::new(world.now(), 1)), "pod");
        let rules = Rules { failures_max: 2, open_for: TimeDelta::seconds(2) };
        let asking = Asking::new(&platform, "one", rules, "a.question", 1);
        let ask = async || asking.ask::<u32>(&"?", WAIT).await;
        assert_eq!((ask().await, ask().await), (None, None), "nobody is there");
        let mut requests = platform.bus.subscribe("a.question", None).await.unwrap();
        assert_eq!(ask().await, None, "the breaker is open");
        assert!(timeout(WAIT, requests.next()).await.is_err());
        tokio::time::advance(Duration::from_secs(2)).await;
        let answer = async {
            let request = requests.next().await.unwrap();
            assert_eq!(request.payload, "\"?\"");
            // One question at a time.
            assert_eq!(ask().await, None);
            platform.bus.publish_core(&request.reply.unwrap(), "7".into()).await.unwrap();
        };
        assert_eq!(tokio::join!(ask(), answer).0, Some(7));
    }
}
