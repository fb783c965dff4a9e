//! Answers users' requests for the newest position of a driver, from the cache. Every process holds all positions, so one of them
//! answers each request.

use std::sync::Arc;

use platform::{CancellationToken, Platform, retry};
use streams::bus::CoreMessage;
use streams::newest_position::{NEWEST_POSITION, NewestPositionRequest};

use crate::cache::Cache;

/// The queue group of all location processes.
const QUEUE_GROUP: &str = "location";

/// Answers until `stop`.
pub(crate) async fn serve(platform: Platform, cache: Arc<Cache>, stop: CancellationToken) {
    let mut delays = retry::dependency();
    loop {
        match platform.bus.subscribe(NEWEST_POSITION, Some(QUEUE_GROUP)).await {
            Ok(mut requests) => loop {
                let request = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    request = requests.next() => request,
                };
                let Some(request) = request else { break };
                delays.reset();
                answer(&platform, &cache, request).await;
            },
            Err(error) => tracing::warn!(%error, "cannot subscribe to requests for newest positions"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delays.next_delay()) => {}
        }
    }
}

async fn answer(platform: &Platform, cache: &Cache, request: CoreMessage) {
    let Some(to) = request.reply else { return };
    let driver = match serde_json::from_slice::<NewestPositionRequest>(&request.payload) {
        Ok(NewestPositionRequest { driver_id }) => driver_id,
        Err(error) => {
            tracing::debug!(%error, "a request for a newest position cannot be read");
            return;
        }
    };
    let newest = cache.positions().newest_of(driver);
    let reply = serde_json::to_vec(&newest).expect("a struct of texts and numbers is JSON");
    if let Err(error) = platform.bus.publish_core(&to, reply.into()).await {
        tracing::debug!(%error, "the reply to a request for a newest position was not sent");
    }
}
