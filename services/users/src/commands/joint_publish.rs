//! Publishes of positions that come while others are on their way to the stream go together after them. So under load the connection to
//! the server, and the server, wake once for many positions and not for each; and a position that comes alone goes at once.
//!
//! What waits here is bounded by the permits of the pod (`Context::publish_permits`, `Context::batch_permits`), which its publishers hold.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use platform::Platform;
use streams::bus::Published;
use streams::{BusError, Message};
use tokio::sync::oneshot;

type Results = Vec<Result<Published, BusError>>;

#[derive(Debug, Default)]
pub(crate) struct JointPublish {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<(Vec<Message>, oneshot::Sender<Results>)>,
    /// A task publishes, and takes what waits when it has the results.
    is_publishing: bool,
}

/// The right to publish what waits, of one task at a time.
struct Turn {
    joint: Arc<JointPublish>,
    is_over: bool,
}

impl Drop for Turn {
    /// The task panicked, or the runtime ends: publishers learn that they have no result.
    fn drop(&mut self) {
        if !self.is_over {
            let mut state = self.joint.state();
            state.is_publishing = false;
            state.waiting.clear();
        }
    }
}

impl JointPublish {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes messages in their order; one result for each. They are published even if the caller does not wait for it.
    pub(crate) async fn publish(self: &Arc<Self>, platform: &Platform, messages: Vec<Message>) -> Results {
        let (count, (to, results)) = (messages.len(), oneshot::channel());
        let is_first = {
            let mut state = self.state();
            state.waiting.push((messages, to));
            !std::mem::replace(&mut state.is_publishing, true)
        };
        if is_first {
            let turn = Turn { joint: self.clone(), is_over: false };
            tokio::spawn(turn.publish_waiting(platform.clone()));
        }
        let lost = || BusError::Unavailable("a publish ended without a result".to_owned());
        results.await.unwrap_or_else(|_| (0..count).map(|_| Err(lost())).collect())
    }
}

impl Turn {
    async fn publish_waiting(mut self, platform: Platform) {
        loop {
            let waiting = {
                let mut state = self.joint.state();
                let waiting = std::mem::take(&mut state.waiting);
                // From then on it is the next publisher's turn.
                self.is_over = waiting.is_empty();
                state.is_publishing = !self.is_over;
                waiting
            };
            if self.is_over {
                return;
            }
            let (mut messages, mut publishers) = (Vec::with_capacity(waiting.len()), Vec::with_capacity(waiting.len()));
            for (of_one, to) in waiting {
                publishers.push((of_one.len(), to));
                messages.extend(of_one);
            }
            let mut results = platform.publish_all(messages).await.into_iter();
            for (count, to) in publishers {
                // Nobody waits any more if the socket has closed.
                let _ = to.send(results.by_ref().take(count).collect());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use platform::World;
    use streams::memory::MemoryBus;
    use streams::topology::Topology;
    use streams::{Bus, Headers};

    use super::*;

    #[tokio::test]
    async fn what_comes_meanwhile_goes_together_in_order_and_a_publisher_that_is_gone_costs_nobody_a_result() {
        let world = World::real();
        let platform = Platform::new(world.clone(), Bus::Memory(MemoryBus::new(world.now(), 1)), "a");
        platform.bus.apply(&Topology::rideshare()).await.unwrap();
        let joint = Arc::new(JointPublish::default());
        let messages = |count: usize| {
            let message = |n| Message {
                subject: "location.update".to_owned(),
                headers: Headers::default(),
                payload: vec![b'0' + n as u8].into(),
            };
            (0..count).map(message).collect::<Vec<_>>()
        };
        // Its caller goes away before anything is published.
        let mut gone = Box::pin(joint.publish(&platform, messages(3)));
        assert!(futures_util::poll!(&mut gone).is_pending());
        drop(gone);
        for round in 0..2 {
            let results = join_all([2, 1, 5].map(|count| joint.publish(&platform, messages(count)))).await;
            let sequences = |results: &Results| -> Vec<u64> {
                results.iter().map(|result| result.as_ref().unwrap().sequence).collect()
            };
            let first = 4 + round * 8;
            assert_eq!(
                results.iter().map(sequences).collect::<Vec<_>>(),
                [(first..first + 2).collect::<Vec<_>>(), vec![first + 2], (first + 3..first + 8).collect(),]
            );
        }
        assert!(!joint.state().is_publishing, "the task has ended");
    }
}
