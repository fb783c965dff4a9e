//! An act of an operator is done once: its id and what it is are rows of the inbox, in the transaction with the effect and the event. A
//! repeat finds them, for as long as the inbox stores them (8 days).

use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, Utc};
use serde::Serialize;
use streams::Event;
use streams::event::{ActKind, OperatorAct};
use streams::operators::shown::ActDone;
use streams::operators::{ActHead, Asked};

use crate::store::TransactionError;
use crate::{Problem, StoreError, Tables, Trace, Transaction, World};

/// Acts are recorded as of this consumer.
const CONSUMER: &str = "operators";

/// Whether an act is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    New,
    /// It was done before: the caller answers by what there is, and changes nothing.
    Repeated,
}

impl Begun {
    pub fn is_repeated(self) -> bool {
        self == Self::Repeated
    }

    /// What the answer to every act has.
    pub fn done(self, act: &ActHead) -> ActDone {
        ActDone { act_id: act.act_id, repeated: self.is_repeated() }
    }
}

/// An act whose transaction failed: the operator is refused, or the store is away.
#[derive(Debug)]
pub enum ActError {
    Refused(Box<Problem>),
    Store(StoreError),
}

impl From<StoreError> for ActError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Problem> for ActError {
    fn from(problem: Problem) -> Self {
        Self::Refused(Box::new(problem))
    }
}

impl From<ActError> for Problem {
    fn from(error: ActError) -> Self {
        match error {
            ActError::Refused(problem) => *problem,
            ActError::Store(error) => error.into(),
        }
    }
}

impl TransactionError for ActError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Refused(_) => None,
        }
    }
}

/// Records that the act is done in this transaction.
///
/// # Errors
/// [`Problem`] `key_reused` if another act, or another operator, had this id; or the store's failure.
pub async fn begin<T: Tables, R: Serialize>(
    tx: &mut Transaction<T>,
    asked: &Asked<R>,
    act: &ActHead,
) -> Result<Begun, Problem> {
    let what = serde_json::to_vec(&(&asked.operator.name, &asked.request)).expect("a request has string keys");
    let id = act.act_id.to_string();
    let content = format!("{id}/{}", hex::encode(digest(&SHA256, &what)));
    let new = tx.record_processed(CONSUMER, &[&id, &content]).await?;
    match (new.contains(&id), new.contains(&content)) {
        (true, _) => Ok(Begun::New),
        (false, false) => Ok(Begun::Repeated),
        (false, true) => {
            let message = "this Idempotency-Key was used for another act: each act needs a key of its own";
            Err(Problem::conflict("key_reused", message))
        }
    }
}

/// The event of an act, in which the caller fills in the ids.
pub fn event<R>(asked: &Asked<R>, head: &ActHead, act: ActKind, now: DateTime<Utc>) -> OperatorAct {
    let by = (asked.operator.name.clone(), asked.operator.role);
    OperatorAct::new(head.act_id, act, by, head.reason.clone(), now)
}

/// Puts the event into the outbox, as the first of a new trace.
pub fn publish<T: Tables>(tx: &mut Transaction<T>, world: &World, act: OperatorAct) {
    tracing::info!(act = act.act.as_str(), act_id = %act.act_id, by = act.by, "an operator acts");
    publish_in(tx, &world.trace(), act);
}

/// The same in a trace that has begun.
pub fn publish_in<T: Tables>(tx: &mut Transaction<T>, trace: &Trace, act: OperatorAct) {
    tx.publish(&Event::Act(Box::new(act)), trace);
}
