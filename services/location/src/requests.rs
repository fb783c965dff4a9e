//! Answers core requests from the cache: match asks where the drivers on duty are when it takes over, users where one driver is. Every
//! process holds all positions, so one of the queue group answers each request. No promise depends on an answer.

use std::sync::Arc;

use platform::{CancellationToken, Platform, retry};
use streams::bus::CoreMessage;
use streams::fleet::{FLEET, FLEET_QUEUE_GROUP, FleetRequest};
use streams::newest_position::{NEWEST_POSITION, NewestPositionRequest};

use crate::cache::Cache;

/// Answers requests on both subjects until `stop`.
pub(crate) async fn serve(platform: Platform, cache: Arc<Cache>, stop: CancellationToken) {
    let fleet = |request: &[u8]| {
        let FleetRequest { after } = serde_json::from_slice(request)?;
        serde_json::to_vec(&cache.positions().fleet(after))
    };
    let newest = |request: &[u8]| {
        let NewestPositionRequest { driver_id } = serde_json::from_slice(request)?;
        serde_json::to_vec(&cache.positions().newest_of(driver_id))
    };
    tokio::join!(answer_all(&platform, FLEET, &stop, fleet), answer_all(&platform, NEWEST_POSITION, &stop, newest));
}

async fn answer_all(
    platform: &Platform,
    subject: &str,
    stop: &CancellationToken,
    answer: impl Fn(&[u8]) -> serde_json::Result<Vec<u8>>,
) {
    let mut delays = retry::dependency();
    loop {
        match platform.bus.subscribe(subject, Some(FLEET_QUEUE_GROUP)).await {
            Ok(mut requests) => loop {
                let request = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    request = requests.next() => request,
                };
                let Some(CoreMessage { payload, reply, .. }) = request else { break };
                delays.reset();
                let Some(to) = reply else { continue };
                match answer(&payload) {
                    Ok(reply) => {
                        if let Err(error) = platform.bus.publish_core(&to, reply.into()).await {
                            tracing::debug!(%error, subject, "a request was not answered");
                        }
                    }
                    Err(error) => tracing::debug!(%error, subject, "a request cannot be read"),
                }
            },
            Err(error) => tracing::warn!(%error, subject, "cannot subscribe to requests"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delays.next_delay()) => {}
        }
    }
}
