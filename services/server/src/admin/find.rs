//! From a phone number or an id to what it is: a ride, a match, a search or a user.

use axum::extract::State;
use platform::Problem;
use platform::api::Passed;
use platform::problem::Query;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use streams::operators::shown::{AllFound, Owner};
use streams::operators::{Operator, REASON_MAX, RidesRequest, UsersRequest};
use uuid::Uuid;

use super::api::{Api, part};
use super::caller::{Key, Viewer};
use super::query::{Parameter, head, parsed, text};

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct FindQuery {
    /// In E.164 form. Either this or `id`.
    #[schemars(example = "+12125550123")]
    phone: Parameter,
    /// Of a ride, match, search or user.
    #[schemars(with = "Option<Uuid>")]
    id: Parameter,
    /// Why a phone is looked for; it is in the event of the act.
    #[schemars(length(min = 1, max = REASON_MAX))]
    reason: Parameter,
}

/// What is found: rides first, then matches, searches and users. Nothing found is an answer, and no error. Looking for a phone is an act, as
/// it is with `users?phone`.
pub(super) async fn find(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    Key(act): Key,
    Query(query): Query<FindQuery>,
) -> Result<Passed<AllFound>, Problem> {
    let wrong = || Problem::field("query", "give `phone`, a number in E.164 form, or `id`, a UUID: one of them");
    match (text(query.phone), parsed::<Uuid>("id", &query.id, "a UUID")?) {
        (Some(phone), None) => {
            let act = head(act, text(query.reason).as_deref())?;
            let found = api.have_users(&operator, (act.act_id, UsersRequest::LookUp { act, phone })).await?;
            let users = found["users"].as_array().into_iter().flatten();
            let users = users.map(|user| json!({"kind": "user", "user_id": user["user_id"]}));
            Ok(Passed::new(json!({"found": users.collect::<Vec<_>>(), "unavailable": []})))
        }
        (None, Some(id)) => Ok(Passed::new(by_id(&api, &operator, id).await)),
        _ => Err(wrong()),
    }
}

async fn by_id(api: &Api, operator: &Operator, id: Uuid) -> Value {
    let ask_rides = api.ask_rides(operator, RidesRequest::Find { id });
    let ask_users = api.ask_users(operator, UsersRequest::Find { id });
    let (rides, users) = tokio::join!(ask_rides, ask_users);
    let mut unavailable = Vec::new();
    let parts = [part(rides, Owner::Rides, &mut unavailable), part(users, Owner::Users, &mut unavailable)];
    let mut found: Vec<Value> = parts.iter().filter_map(Value::as_array).flatten().cloned().collect();
    found.sort_by_key(|one| ["ride", "match", "request", "user"].iter().position(|kind| one["kind"] == *kind));
    json!({"found": found, "unavailable": unavailable})
}
