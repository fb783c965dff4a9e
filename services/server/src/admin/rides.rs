//! Rides: listed, shown with all that is known of them, ended, refunded, and notes of them.

use axum::extract::State;
use platform::api::Passed;
use platform::problem::{Json, Query};
use platform::{Problem, operators};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use streams::event::Money;
use streams::operators::shown::{NoteAdded, OperatorsRidePage, Owner, Refunded, RideEndedByOperator, RideScreen};
use streams::operators::{LocationRequest, NOTE_MAX, Operator, REASON_MAX, RidesRequest, UsersRequest};
use streams::{RideId, UserId};

use super::api::{Api, part};
use super::caller::{Key, Support, Viewer};
use super::query::{PageQuery, Parameter, RawId, head, id, note, one_of, parsed, text};

const STATUSES: [&str; 7] = ["live", "pickup", "waiting", "started", "arrived", "completed", "cancelled"];

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct RidesQuery {
    /// `live`: all that have not ended.
    #[schemars(extend("enum" = STATUSES))]
    status: Parameter,
    /// The driver or the passenger.
    #[schemars(with = "Option<UserId>")]
    user: Parameter,
    market: Parameter,
    #[serde(flatten)]
    page: PageQuery<RideId>,
}

pub(super) async fn list(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    Query(query): Query<RidesQuery>,
) -> Result<Passed<OperatorsRidePage>, Problem> {
    let request = RidesRequest::Rides {
        status: one_of("status", query.status, &STATUSES)?,
        user: parsed("user", &query.user, "the id of a user")?,
        market: text(query.market),
        after: query.page.cursor()?,
        limit: query.page.limit()?,
    };
    api.ask_rides(&operator, request).await.map(Passed::new)
}

pub(super) async fn one(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    ride: RawId,
) -> Result<Passed<RideScreen>, Problem> {
    let ride_id = id(ride, "ride")?;
    let mut shown = api.ask_rides(&operator, RidesRequest::Ride { ride_id }).await?;
    add_others(&api, &operator, ride_id, &mut shown).await;
    Ok(Passed::new(shown))
}

/// Adds what users and location know of the ride.
async fn add_others(api: &Api, operator: &Operator, ride_id: RideId, shown: &mut Value) {
    let ride = &shown["ride"];
    let user = |field: &str| -> Option<UserId> { ride[field].as_str()?.parse().ok() };
    let people = user("driver_id").zip(user("passenger_id"));
    let request_id = ride["request_id"].as_str().and_then(|id| id.parse().ok());
    let ask_people = async {
        match people {
            Some((driver_id, passenger_id)) => {
                api.ask_users(operator, UsersRequest::People { driver_id, passenger_id }).await
            }
            None => Ok(Value::Null),
        }
    };
    let ask_offers = async {
        match request_id {
            Some(request_id) => api.ask_users(operator, UsersRequest::Offers { request_id }).await,
            None => Ok(Value::Null),
        }
    };
    let ask_track = api.ask_location(operator, LocationRequest::Track { ride_id });
    let (people, offers, track) = tokio::join!(ask_people, ask_offers, ask_track);
    let mut unavailable = Vec::new();
    let mut people = part(people, Owner::Users, &mut unavailable);
    shown["driver"] = people["driver"].take();
    shown["passenger"] = people["passenger"].take();
    shown["offers"] = part(offers, Owner::Users, &mut unavailable);
    shown["track"] = part(track, Owner::Location, &mut unavailable);
    shown["unavailable"] = operators::shown(&unavailable);
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "ActReason")]
pub(super) struct Why {
    #[schemars(length(min = 1, max = REASON_MAX))]
    reason: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct RefundRequest {
    /// More than 0.
    amount: Money,
    #[schemars(length(min = 1, max = REASON_MAX))]
    reason: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct NoteRequest {
    #[schemars(length(min = 1, max = NOTE_MAX))]
    text: String,
}

pub(super) async fn end(
    State(api): State<Api>,
    Support(operator): Support,
    ride: RawId,
    Key(act): Key,
    Json(why): Json<Why>,
) -> Result<Passed<RideEndedByOperator>, Problem> {
    let ride_id = id(ride, "ride")?;
    let act = head(act, Some(&why.reason))?;
    api.have_rides(&operator, (act.act_id, RidesRequest::End { act, ride_id })).await.map(Passed::new)
}

pub(super) async fn refund(
    State(api): State<Api>,
    Support(operator): Support,
    ride: RawId,
    Key(act): Key,
    Json(request): Json<RefundRequest>,
) -> Result<Passed<Refunded>, Problem> {
    let ride_id = id(ride, "ride")?;
    if request.amount.amount <= 0 {
        return Err(Problem::field("amount.amount", "must be more than 0"));
    }
    let act = head(act, Some(&request.reason))?;
    api.have_rides(&operator, (act.act_id, RidesRequest::Refund { act, ride_id, amount: request.amount }))
        .await
        .map(Passed::new)
}

pub(super) async fn add_note(
    State(api): State<Api>,
    Support(operator): Support,
    ride: RawId,
    Key(act): Key,
    Json(request): Json<NoteRequest>,
) -> Result<Passed<NoteAdded>, Problem> {
    let ride_id = id(ride, "ride")?;
    let text = note(&request.text)?;
    let act = head(act, None)?;
    api.have_rides(&operator, (act.act_id, RidesRequest::Note { act, ride_id, text })).await.map(Passed::new)
}
