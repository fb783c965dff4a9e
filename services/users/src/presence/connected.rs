//! Answers where the drivers are who have a socket here, from memory, see [`streams::connected_drivers`].

use bytes::Bytes;
use platform::CancellationToken;
use platform::responder::{self, Endpoint, Reply};
use streams::Service;
use streams::connected_drivers::{
    CONNECTED_DRIVERS, CONNECTED_DRIVERS_PAGE, CONNECTED_DRIVERS_WAIT, ConnectedDrivers, ConnectedDriversRequest,
};

use crate::context::Context;

/// Requests in hand at most.
const ACCEPTED_MAX: usize = 64;

/// Answers requests until `stop`.
pub(crate) async fn answer(context: Context, stop: CancellationToken) {
    let endpoint = Endpoint {
        service: Some(Service::Users),
        name: "drivers".to_owned(),
        subject: CONNECTED_DRIVERS.to_owned(),
        queue_group: None,
        accepted_max: ACCEPTED_MAX,
        wait: CONNECTED_DRIVERS_WAIT,
        health_part: None,
    };
    let platform = context.platform.clone();
    responder::serve(platform, endpoint, stop, move |request| {
        let reply = reply(&context, &request);
        async move { reply }
    })
    .await;
}

fn reply(context: &Context, request: &Bytes) -> Reply {
    let request: ConnectedDriversRequest = match serde_json::from_slice(request) {
        Ok(request) => request,
        Err(error) => return Reply::unreadable(&error),
    };
    let pod_id = context.platform.pod.to_string();
    if request.pod_id.as_ref().is_some_and(|asked| *asked != pod_id) {
        return Reply::of_others();
    }
    if let Some(driver) = request.driver_id {
        return match context.sockets.connected_driver(driver) {
            Some(driver) => Reply::json(&ConnectedDrivers { pod_id, drivers: vec![driver], next: None }),
            None => Reply::of_others(),
        };
    }
    let (drivers, next) = context.sockets.connected_drivers(request.after, CONNECTED_DRIVERS_PAGE);
    Reply::json(&ConnectedDrivers { pod_id, drivers, next })
}
