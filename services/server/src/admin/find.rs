//! From a phone number or an id to what it is: a ride, a match, a search or a user.

use axum::extract::State;
use axum::http::HeaderMap;
use platform::Problem;
use platform::problem::Json;
use serde_json::{Value, json};
use streams::operators::{Operator, RidesRequest, UsersRequest};
use uuid::Uuid;

use super::api::{Api, part};
use super::caller::Viewer;
use super::query::{Fields, RawQuery, head};

/// What is found: rides first, then matches, searches and users. Nothing found is an answer, and no error. Looking for a phone is an act, as
/// it is with `users?phone`.
pub(super) async fn find(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    headers: HeaderMap,
    query: RawQuery,
) -> Result<Json<Value>, Problem> {
    let query = Fields::read(query)?;
    let wrong = || Problem::field("query", "give `phone`, a number in E.164 form, or `id`, a UUID: one of them");
    let phone = query.text("phone");
    match (phone, query.parsed::<Uuid>("id", "a UUID")?) {
        (Some(phone), None) => {
            let act = head(api.act_id(&headers)?, query.text("reason").as_deref())?;
            let found = api.have_users(&operator, UsersRequest::LookUp { act, phone }).await?;
            let users = found["users"].as_array().into_iter().flatten();
            let users = users.map(|user| json!({"kind": "user", "user_id": user["user_id"]}));
            Ok(Json(json!({"found": users.collect::<Vec<_>>(), "unavailable": []})))
        }
        (None, Some(id)) => Ok(Json(by_id(&api, &operator, id).await)),
        _ => Err(wrong()),
    }
}

async fn by_id(api: &Api, operator: &Operator, id: Uuid) -> Value {
    let ask_rides = api.ask_rides(operator, RidesRequest::Find { id });
    let ask_users = api.ask_users(operator, UsersRequest::Find { id });
    let (rides, users) = tokio::join!(ask_rides, ask_users);
    let mut unavailable = Vec::new();
    let parts = [part(rides, "rides", &mut unavailable), part(users, "users", &mut unavailable)];
    let mut found: Vec<Value> = parts.iter().filter_map(Value::as_array).flatten().cloned().collect();
    found.sort_by_key(|one| ["ride", "match", "request", "user"].iter().position(|kind| one["kind"] == *kind));
    json!({"found": found, "unavailable": unavailable})
}
