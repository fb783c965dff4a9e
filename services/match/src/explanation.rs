//! Answers operators, who want to know why a driver was offered a search: the record is run again. Any process of match can, also one that
//! does not match.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use platform::responder::{self, Endpoint, Reply};
use platform::{CancellationToken, Platform, Store};
use streams::Service;
use streams::explanation::{EXPLANATION, ExplanationReply, ExplanationRequest};
use streams::operators::QUESTION_WAIT;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::record::explain::{Explanation, Target};
use crate::record::query;
use crate::tables::Tables;

/// Requests in hand at most.
const ACCEPTED_MAX: usize = 16;
/// The longest time for one answer: a chain of the record has up to five minutes of steps.
const TIME_MAX: Duration = Duration::from_secs(2);

/// Answers until `stop`. Who has the permit works: it costs the time of a core.
pub(crate) async fn answer(
    (platform, store, permits): (Platform, Store<Tables>, Arc<Semaphore>),
    stop: CancellationToken,
) {
    let endpoint = Endpoint {
        service: Some(Service::Match),
        name: "explanation".to_owned(),
        subject: EXPLANATION.to_owned(),
        queue_group: Some(EXPLANATION.to_owned()),
        accepted_max: ACCEPTED_MAX,
        wait: QUESTION_WAIT,
        health_part: None,
    };
    responder::serve(platform, endpoint, stop, move |request| reply(store.clone(), permits.clone(), request)).await;
}

async fn reply(store: Store<Tables>, permits: Arc<Semaphore>, request: Bytes) -> Reply {
    let ExplanationRequest { match_id } = match serde_json::from_slice(&request) {
        Ok(request) => request,
        Err(error) => return Reply::unreadable(&error),
    };
    let Ok(_permit) = permits.acquire().await else { return Reply::none("it ends") };
    match timeout(TIME_MAX, query::explain(&store, Target::Match(match_id))).await {
        Ok(Ok(explanation)) => Reply::json(&ExplanationReply::Explained(explanation)),
        Ok(Err(error)) => Reply::none(error.to_string()),
        Err(_) => Reply::json(&ExplanationReply::<Explanation>::Busy),
    }
}
