//! The operators' API, `/admin/v1`: every process serves all of it, whichever services it runs.
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
mod stream;
pub mod tokens;

use axum::extract::State;
use platform::problem::Json;
use platform::routes::Routes;
use serde_json::{Value, json};

pub use api::Api;
use caller::Viewer;

/// All routes of operators.
pub fn routes(api: &Api) -> Routes {
    Routes::default()
        .get("/admin/v1/me", me)
        .get("/admin/v1/rides", rides::list)
        .get("/admin/v1/rides/{id}", rides::one)
        .post("/admin/v1/rides/{id}/end", rides::end)
        .post("/admin/v1/rides/{id}/refund", rides::refund)
        .post("/admin/v1/rides/{id}/notes", rides::add_note)
        .get("/admin/v1/matches/{id}/explanation", rides::explanation)
        .get("/admin/v1/find", find::find)
        .get("/admin/v1/markets", markets::markets)
        .get("/admin/v1/users", people::look_up)
        .get("/admin/v1/users/{id}", people::user)
        .post("/admin/v1/users/{id}/sign-out", people::sign_out)
        .get("/admin/v1/drivers", people::drivers)
        .post("/admin/v1/drivers/{id}/approve", people::approve)
        .post("/admin/v1/drivers/{id}/suspend", people::suspend)
        .get("/admin/v1/drivers/{id}/documents", people::documents)
        .put("/admin/v1/drivers/{id}/documents", people::set_documents)
        .get("/admin/v1/live", live::live)
        .get("/admin/v1/streams", bus::streams)
        .get("/admin/v1/consumers", bus::consumers)
        .get("/admin/v1/dead-letters", bus::dead_letters)
        .get("/admin/v1/dead-letters/{seq}", bus::dead_letter)
        .post("/admin/v1/dead-letters/{seq}/requeue", bus::requeue)
        .post("/admin/v1/dead-letters/{seq}/remove", bus::remove)
        .get("/admin/v1/pods", list_pods)
        .get("/admin/v1/acts", bus::acts)
        .get("/admin/v1/stream", stream::stream)
        .with_state(api.clone())
}

async fn me(State(api): State<Api>, Viewer(operator): Viewer) -> Json<Value> {
    Json(json!({"name": operator.name, "role": operator.role, "trace_url": api.trace_url}))
}

async fn list_pods(State(api): State<Api>, _: Viewer) -> Json<Value> {
    Json(api.pods.view().await)
}
