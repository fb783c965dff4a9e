//! Asks the pods of users where the drivers are who have a socket, see [`streams::connected_drivers`].

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use streams::BusError;
use streams::UserId;
use streams::connected_drivers::{
    CONNECTED_DRIVERS, CONNECTED_DRIVERS_QUIET, ConnectedDriver, ConnectedDrivers, ConnectedDriversRequest,
};
use tokio::time::{Instant, timeout_at};

use crate::Platform;

/// The most pages of one pod: more users than sockets fit into it.
const PAGES_MAX: usize = 500;

/// The drivers whom each pod knows; one with sockets at several pods comes several times. What does not come within `wait` is left out.
///
/// # Errors
/// Why no pod was asked.
pub async fn all(platform: &Platform, wait: Duration) -> Result<Vec<ConnectedDriver>, BusError> {
    let deadline = Instant::now() + wait;
    let first = ask_all(platform, &ConnectedDriversRequest::default(), wait).await?;
    let pods = first.into_iter().map(async |page| {
        let ConnectedDrivers { pod_id, mut drivers, mut next } = page;
        for _ in 1..PAGES_MAX {
            let Some(after) = next else { break };
            let request = ConnectedDriversRequest { pod_id: Some(pod_id.clone()), after: Some(after), driver_id: None };
            match timeout_at(deadline, ask_one(platform, &request, wait)).await {
                Ok(Ok(page)) => {
                    drivers.extend(page.drivers);
                    next = page.next;
                }
                Ok(Err(error)) => {
                    tracing::info!(%error, pod_id, "a pod did not say where the rest of its drivers are");
                    break;
                }
                Err(_) => {
                    tracing::info!(pod_id, "a pod did not say in time where the rest of its drivers are");
                    break;
                }
            }
        }
        drivers
    });
    Ok(join_all(pods).await.into_iter().flatten().collect())
}

/// Where each pod knows one driver; none if no pod does.
pub async fn one(platform: &Platform, driver: UserId, wait: Duration) -> Vec<ConnectedDriver> {
    let request = ConnectedDriversRequest { driver_id: Some(driver), ..ConnectedDriversRequest::default() };
    let pages = ask_all(platform, &request, wait).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "no pod said where a driver is");
        Vec::new()
    });
    let of_pods = pages.into_iter().flat_map(|page| page.drivers);
    of_pods.filter(|found| found.user_id == driver && found.position.location.is_valid()).collect()
}

fn bytes(request: &ConnectedDriversRequest) -> Bytes {
    serde_json::to_vec(request).expect("ids are JSON").into()
}

async fn ask_all(
    platform: &Platform,
    request: &ConnectedDriversRequest,
    wait: Duration,
) -> Result<Vec<ConnectedDrivers>, BusError> {
    let replies = platform.bus.request_all(CONNECTED_DRIVERS, bytes(request), wait, CONNECTED_DRIVERS_QUIET).await?;
    Ok(replies.iter().filter_map(|reply| serde_json::from_slice(reply).ok()).collect())
}

async fn ask_one(
    platform: &Platform,
    request: &ConnectedDriversRequest,
    wait: Duration,
) -> Result<ConnectedDrivers, BusError> {
    let reply = platform.bus.request(CONNECTED_DRIVERS, bytes(request), wait).await?;
    serde_json::from_slice(&reply)
        .map_err(|error| BusError::Unavailable(format!("the reply cannot be parsed: {error}")))
}
