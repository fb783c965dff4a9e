//! Answers core requests from memory: match asks where the drivers on duty are when it takes over, users where one driver is. One of the
//! queue group answers each request, with what the owners of zones know (`zones/questions.rs`). No promise depends on an answer.

use platform::responder::{self, Endpoint, Reply};
use platform::{CancellationToken, Platform};
use streams::Service;
use streams::fleet::{FLEET, FLEET_QUEUE_GROUP, FLEET_WAIT, FleetRequest};
use streams::newest_position::{NEWEST_POSITION, NEWEST_POSITION_WAIT, NewestPositionRequest};

use crate::zones::questions::Questions;

/// Requests of one subject in hand at most: each is answered from memory, here and in the processes that are asked.
const ACCEPTED_MAX: usize = 64;

/// Answers requests on both subjects until `stop`.
pub(crate) async fn serve(platform: Platform, questions: Questions, stop: CancellationToken) {
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
        let questions = questions.clone();
        responder::serve(platform.clone(), endpoint("fleet", FLEET, FLEET_WAIT), stop.clone(), move |request| {
            let (questions, request) = (questions.clone(), serde_json::from_slice(&request));
            async move {
                match request {
                    Ok(FleetRequest { after }) => Reply::json(&questions.fleet(after).await),
                    Err(error) => Reply::unreadable(&error),
                }
            }
        })
    };
    let newest = {
        let endpoint = endpoint("newest", NEWEST_POSITION, NEWEST_POSITION_WAIT);
        responder::serve(platform, endpoint, stop, move |request| {
            let (questions, request) = (questions.clone(), serde_json::from_slice(&request));
            async move {
                match request {
                    Ok(NewestPositionRequest { driver_id }) => Reply::json(&questions.newest_of(driver_id).await),
                    Err(error) => Reply::unreadable(&error),
                }
            }
        })
    };
    tokio::join!(fleet, newest);
}
