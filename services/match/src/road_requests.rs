//! Asks for the road times that the engine waits for, beside the engine: no transaction waits for a routing server.

use std::sync::{Arc, Mutex, PoisonError};

use roads::{Road, Roads, Way};
use tokio::task::JoinSet;

/// Requests under way, each with the ways of one step. What does not fit is answered at once: nobody can say.
const REQUESTS_MAX: usize = 8;

type Answers = Vec<(Way, Option<Road>)>;

#[derive(Debug)]
pub(crate) struct RoadRequests {
    roads: Option<Roads>,
    under_way: JoinSet<()>,
    answers: Arc<Mutex<Answers>>,
}

impl RoadRequests {
    pub(crate) fn new(roads: Option<Roads>) -> Self {
        Self { roads, under_way: JoinSet::new(), answers: Arc::default() }
    }

    /// False if there is no room for one more request: the answer is that nobody can say.
    #[must_use]
    pub(crate) fn send(&mut self, ways: Vec<Way>) -> bool {
        self.forget_finished();
        let answers = self.answers.clone();
        match &self.roads {
            Some(roads) if self.under_way.len() < REQUESTS_MAX => {
                let roads = roads.clone();
                self.under_way.spawn(async move {
                    let found = roads.ways(&ways).await;
                    append(&answers, ways.into_iter().zip(found).collect());
                });
                true
            }
            _ => {
                append(&answers, ways.into_iter().map(|way| (way, None)).collect());
                false
            }
        }
    }

    /// The answers since the last call.
    pub(crate) fn take_answers(&mut self) -> Answers {
        self.forget_finished();
        std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request that has finished has left its answers, and is none that somebody waits for.
    fn forget_finished(&mut self) {
        while self.under_way.try_join_next().is_some() {}
    }

    /// Whether an answer may come, or has come, since the last [`Self::take_answers`].
    pub(crate) fn is_open(&self) -> bool {
        !self.under_way.is_empty() || !self.answers.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

fn append(answers: &Mutex<Answers>, mut more: Answers) {
    answers.lock().unwrap_or_else(PoisonError::into_inner).append(&mut more);
}
