//! Answers core requests from the cache: match asks where the drivers on duty are when it takes over, users where one driver is. Every
//! process holds all positions, so one of the queue group answers each request. No promise depends on an answer.

use std::sync::Arc;

use platform::responder::{self, Endpoint, Reply};
use platform::{CancellationToken, Platform};
use streams::Service;
use streams::fleet::{FLEET, FLEET_QUEUE_GROUP, FLEET_WAIT, FleetRequest};
use streams::newest_position::{NEWEST_POSITION, NEWEST_POSITION_WAIT, NewestPositionRequest};

use crate::cache::Cache;

/// Requests of one subject in hand at most: each is answered from memory.
const ACCEPTED_MAX: usize = 64;

/// Answers requests on both subjects until `stop`.
pub(crate) async fn serve(platform: Platform, cache: Arc<Cache>, stop: CancellationToken) {
    let endpoint = |name: &str, subject: &str, wait| Endpoint {
        service: Some(Service::Location),
        name: name.to_owned(),
        subject: subject.to_owned(),
        queue_group: Some(FLEET_QUEUE_GROUP.to_owned()),
        accepted_max: ACCEPTED_MAX,
        wait,
        health_part: None,
    };
    let fleet = {
        let cache = cache.clone();
        responder::serve(platform.clone(), endpoint("fleet", FLEET, FLEET_WAIT), stop.clone(), move |request| {
            let reply = match serde_json::from_slice(&request) {
                Ok(FleetRequest { after }) => Reply::json(&cache.positions().fleet(after)),
                Err(error) => Reply::unreadable(&error),
            };
            async { reply }
        })
    };
    let newest = {
        let endpoint = endpoint("newest", NEWEST_POSITION, NEWEST_POSITION_WAIT);
        responder::serve(platform, endpoint, stop, move |request| {
            let reply = match serde_json::from_slice(&request) {
                Ok(NewestPositionRequest { driver_id }) => Reply::json(&cache.positions().newest_of(driver_id)),
                Err(error) => Reply::unreadable(&error),
            };
            async { reply }
        })
    };
    tokio::join!(fleet, newest);
}
