//! Answers users, which shows people's means to each other: a core request, from which nothing follows.

use std::sync::Arc;

use bytes::Bytes;
use platform::responder::{self, Endpoint, Reply};
use platform::{CancellationToken, Platform, Store, StoreError};
use streams::Service;
use streams::ratings::{MeanRating, RATINGS, RATINGS_USERS_MAX, RATINGS_WAIT, RatingsRequest};
use tokio::sync::Semaphore;

use super::rows;
use crate::tables::Tables;

/// Requests that are worked on at once, and those in hand at most.
const CONCURRENCY: usize = 4;
const ACCEPTED_MAX: usize = 256;

/// Answers until `stop`.
pub(crate) async fn answer(platform: Platform, store: Store<Tables>, stop: CancellationToken) {
    let endpoint = Endpoint {
        service: Some(Service::Rides),
        name: "ratings".to_owned(),
        subject: RATINGS.to_owned(),
        queue_group: Some(RATINGS.to_owned()),
        accepted_max: ACCEPTED_MAX,
        wait: RATINGS_WAIT,
        health_part: None,
    };
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    responder::serve(platform.clone(), endpoint, stop, move |request| {
        reply(platform.clone(), store.clone(), permits.clone(), request)
    })
    .await;
}

async fn reply(platform: Platform, store: Store<Tables>, permits: Arc<Semaphore>, request: Bytes) -> Reply {
    let request: RatingsRequest = match serde_json::from_slice(&request) {
        Ok(request) => request,
        Err(error) => return Reply::unreadable(&error),
    };
    let Ok(_permit) = permits.acquire().await else { return Reply::none("it ends") };
    match means(&platform, &store, request).await {
        Ok(means) => Reply::json(&means),
        Err(error) => Reply::none(error.to_string()),
    }
}

async fn means(
    platform: &Platform,
    store: &Store<Tables>,
    request: RatingsRequest,
) -> Result<Vec<MeanRating>, StoreError> {
    let users = &request.users[..request.users.len().min(RATINGS_USERS_MAX)];
    let mut tx = store.begin().await?;
    rows::means(&mut tx, users, platform.world.now()).await
}
