//! Answers users, which shows people what they owe: a core request, from which nothing follows.

use std::sync::Arc;

use bytes::Bytes;
use platform::responder::{self, Endpoint, Reply};
use platform::{CancellationToken, Platform, Store, StoreError};
use streams::Service;
use streams::debts::{DEBTS, DEBTS_MAX, DEBTS_WAIT, DebtView, DebtsRequest};
use tokio::sync::Semaphore;

use crate::payment::Debt;
use crate::payment::rows::debts_of;
use crate::tables::Tables;

/// Requests that are worked on at once: each holds a connection to the database, which commands need more.
const CONCURRENCY: usize = 8;
/// Requests in hand at most; of those that wait for longer than [`DEBTS_WAIT`] nobody waits for the reply.
const ACCEPTED_MAX: usize = 256;

/// Answers until `stop`.
pub(crate) async fn answer(platform: Platform, store: Store<Tables>, stop: CancellationToken) {
    let endpoint = Endpoint {
        service: Some(Service::Rides),
        name: "debts".to_owned(),
        subject: DEBTS.to_owned(),
        queue_group: Some(DEBTS.to_owned()),
        accepted_max: ACCEPTED_MAX,
        wait: DEBTS_WAIT,
        health_part: None,
    };
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    responder::serve(platform, endpoint, stop, move |request| reply(store.clone(), permits.clone(), request)).await;
}

async fn reply(store: Store<Tables>, permits: Arc<Semaphore>, request: Bytes) -> Reply {
    let request: DebtsRequest = match serde_json::from_slice(&request) {
        Ok(request) => request,
        Err(error) => return Reply::unreadable(&error),
    };
    let Ok(_permit) = permits.acquire().await else { return Reply::none("it ends") };
    match debts(&store, &request).await {
        Ok(debts) => Reply::json(&debts),
        Err(error) => Reply::none(error.to_string()),
    }
}

async fn debts(store: &Store<Tables>, request: &DebtsRequest) -> Result<Vec<DebtView>, StoreError> {
    let mut tx = store.begin().await?;
    let debts = debts_of(&mut tx, request.user_id).await?;
    Ok(debts.into_iter().take(DEBTS_MAX).map(view).collect())
}

fn view(debt: Debt) -> DebtView {
    DebtView { debt_id: debt.payment_id, ride_id: debt.ride_id, amount: debt.amount, since: debt.at }
}
