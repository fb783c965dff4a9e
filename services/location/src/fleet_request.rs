//! Answers match's question where the drivers on duty are, from the cache. One process of the queue group gets each request.

use std::sync::Arc;

use platform::{CancellationToken, Platform, retry};
use streams::bus::CoreMessage;
use streams::fleet::{FLEET, FLEET_QUEUE_GROUP, FleetRequest};

use crate::cache::Cache;

/// Serves until `stop`.
pub(crate) async fn serve(platform: Platform, cache: Arc<Cache>, stop: CancellationToken) {
    let mut delays = retry::dependency();
    loop {
        match platform.bus.subscribe(FLEET, Some(FLEET_QUEUE_GROUP)).await {
            Ok(mut requests) => loop {
                let request = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    request = requests.next() => request,
                };
                let Some(request) = request else { break };
                delays.reset();
                reply(&platform, &cache, &request).await;
            },
            Err(error) => tracing::warn!(%error, "cannot subscribe to the requests of match"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delays.next_delay()) => {}
        }
    }
}

async fn reply(platform: &Platform, cache: &Cache, request: &CoreMessage) {
    let Some(to) = &request.reply else { return };
    let FleetRequest { after } = match serde_json::from_slice(&request.payload) {
        Ok(request) => request,
        Err(error) => {
            tracing::debug!(%error, "a request for the positions of drivers cannot be read");
            return;
        }
    };
    let reply = cache.positions().fleet(after);
    let body = serde_json::to_vec(&reply).expect("replies have string keys");
    if let Err(error) = platform.bus.publish_core(to, body.into()).await {
        tracing::debug!(%error, "the positions of drivers were not sent to match");
    }
}
