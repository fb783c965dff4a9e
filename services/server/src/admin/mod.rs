//! The operators' API, `/admin/v1`: every process serves all of it, whichever services it runs. Without JWT_SECRET, which match alone does not
//! need, it has no operators: the owners would take none of its requests.
//!
//! What belongs to a service, its owner says and does, by a sealed core request (`platform/operators`): an act is one transaction of the
//! owner, with its event for ADMIN_STREAM. What is on the bus (streams, consumers, dead letters, acts) and what processes say of themselves
//! is read here. A screen of several owners names those that did not answer, and shows the rest.

mod api;
mod bus;
mod caller;
mod find;
mod live;
mod markets;
mod people;
mod pods;
mod query;
mod rides;
pub(crate) mod stream;
pub mod tokens;

use axum::extract::State;
use platform::api::Schemas;
use platform::problem::Json;
use platform::routes::{Route, Routes};
use streams::operators::shown::{OperatorProfile, Pods};

pub use api::Api;
use caller::Viewer;

/// All routes of operators.
pub fn routes(api: &Api) -> Routes {
    unbound().with_state(api.clone())
}

/// The routes with their operations.
pub(crate) fn operations() -> Vec<Route> {
    unbound().into_list()
}

const EVENT_STREAM: &str = "text/event-stream";

fn unbound() -> Routes<Api> {
    Routes::default()
        .get("/admin/v1/me", me)
        .described("Who the operator is.", &[])
        .get("/admin/v1/rides", rides::list)
        .described("Rides, the newest first.", &[])
        .get("/admin/v1/rides/{id}", rides::one)
        .described("A ride with its events, offers, track, ledger and notes.", &[])
        .post("/admin/v1/rides/{id}/end", rides::end)
        .described("End a stuck ride.", &["ride_ended"])
        .post("/admin/v1/rides/{id}/refund", rides::refund)
        .described("Refund a part of what was captured.", &["not_captured", "refund_too_large"])
        .post("/admin/v1/rides/{id}/notes", rides::add_note)
        .described("Add a note to a ride.", &["too_many_notes"])
        .get("/admin/v1/matches/{id}/explanation", rides::explanation)
        .described("Why a driver was offered a search: the recorded decision is run again.", &[])
        .get("/admin/v1/find", find::find)
        .described("What has an id or a phone number. Looking for a phone is an act.", &[])
        .get("/admin/v1/markets", markets::markets)
        .described("The areas of the markets, as GeoJSON.", &[])
        .get("/admin/v1/users", people::look_up)
        .described("Look for a user by phone, which is an act.", &[])
        .get("/admin/v1/users/{id}", people::user)
        .described("A user.", &[])
        .post("/admin/v1/users/{id}/sign-out", people::sign_out)
        .described("End all sign-ins of a user.", &[])
        .get("/admin/v1/drivers", people::drivers)
        .described("Drivers.", &[])
        .post("/admin/v1/drivers/{id}/approve", people::approve)
        .described("Approve a driver.", &[])
        .post("/admin/v1/drivers/{id}/suspend", people::suspend)
        .described("Suspend a driver.", &[])
        .get("/admin/v1/drivers/{id}/documents", people::documents)
        .described("The documents of a driver.", &[])
        .put("/admin/v1/drivers/{id}/documents", people::set_documents)
        .described("Replace the documents of a driver.", &[])
        .get("/admin/v1/live", live::live)
        .described("The map: positions, searches and rides.", &[])
        .get("/admin/v1/streams", bus::streams)
        .described("How the streams stand.", &[])
        .get("/admin/v1/consumers", bus::consumers)
        .described("How the consumers stand.", &[])
        .get("/admin/v1/dead-letters", bus::dead_letters)
        .described("Dead letters.", &[])
        .get("/admin/v1/dead-letters/{seq}", bus::dead_letter)
        .described("A dead letter.", &[])
        .post("/admin/v1/dead-letters/{seq}/requeue", bus::requeue)
        .described("Handle a dead letter again.", &["not_requeued", "busy"])
        .post("/admin/v1/dead-letters/{seq}/remove", bus::remove)
        .described("Remove a dead letter.", &[])
        .get("/admin/v1/pods", list_pods)
        .described("The processes.", &[])
        .get("/admin/v1/acts", bus::acts)
        .described("What operators did, the newest first.", &[])
        .get("/admin/v1/stream", stream::stream)
        .described("What changes, as server-sent events: the AsyncAPI document has their names and data.", &[])
        .with(|operation| operation.add_answer(200, Some((EVENT_STREAM, Schemas::written::<String>))))
}

async fn me(State(api): State<Api>, Viewer(operator): Viewer) -> Json<OperatorProfile> {
    Json(OperatorProfile { name: operator.name, role: operator.role, trace_url: api.trace_url.clone() })
}

async fn list_pods(State(api): State<Api>, _: Viewer) -> Json<Pods> {
    Json(api.pods.view().await)
}
