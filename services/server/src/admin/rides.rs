//! Rides: listed, shown with all that is known of them, ended, refunded, and notes of them.

use axum::extract::State;
use axum::http::HeaderMap;
use platform::Problem;
use platform::problem::Json;
use serde::Deserialize;
use serde_json::Value;
use streams::event::Money;
use streams::operators::{LocationRequest, Operator, RidesRequest, UsersRequest};
use streams::{RideId, UserId};

use super::api::{Api, part};
use super::caller::{Support, Viewer};
use super::query::{Fields, RawId, RawQuery, head, id, note};

const STATUSES: [&str; 7] = ["live", "pickup", "waiting", "started", "arrived", "completed", "cancelled"];

pub(super) async fn list(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    query: RawQuery,
) -> Result<Json<Value>, Problem> {
    let query = Fields::read(query)?;
    let request = RidesRequest::Rides {
        status: query.one_of("status", &STATUSES)?,
        user: query.parsed("user", "the id of a user")?,
        market: query.text("market"),
        after: query.cursor()?,
        limit: query.limit()?,
    };
    api.ask_rides(&operator, request).await.map(Json)
}

pub(super) async fn one(State(api): State<Api>, Viewer(operator): Viewer, ride: RawId) -> Result<Json<Value>, Problem> {
    let ride_id = id(ride, "ride")?;
    let mut shown = api.ask_rides(&operator, RidesRequest::Ride { ride_id }).await?;
    add_others(&api, &operator, ride_id, &mut shown).await;
    Ok(Json(shown))
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
    let mut people = part(people, "users", &mut unavailable);
    shown["driver"] = people["driver"].take();
    shown["passenger"] = people["passenger"].take();
    shown["offers"] = part(offers, "users", &mut unavailable);
    shown["track"] = part(track, "location", &mut unavailable);
    shown["unavailable"] = unavailable.into();
}

/// Why the driver of an offer was chosen, and not another one.
pub(super) async fn explanation(State(api): State<Api>, _: Viewer, of_match: RawId) -> Result<Json<Value>, Problem> {
    api.ask_why(id(of_match, "match")?).await.map(Json)
}

#[derive(Debug, Deserialize)]
pub(super) struct Why {
    reason: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct RefundRequest {
    amount: Money,
    reason: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct NoteRequest {
    text: String,
}

pub(super) async fn end(
    State(api): State<Api>,
    Support(operator): Support,
    ride: RawId,
    headers: HeaderMap,
    Json(why): Json<Why>,
) -> Result<Json<Value>, Problem> {
    let ride_id = id(ride, "ride")?;
    let act = head(api.act_id(&headers)?, Some(&why.reason))?;
    api.have_rides(&operator, RidesRequest::End { act, ride_id }).await.map(Json)
}

pub(super) async fn refund(
    State(api): State<Api>,
    Support(operator): Support,
    ride: RawId,
    headers: HeaderMap,
    Json(request): Json<RefundRequest>,
) -> Result<Json<Value>, Problem> {
    let ride_id = id(ride, "ride")?;
    if request.amount.amount <= 0 {
        return Err(Problem::field("amount.amount", "must be more than 0"));
    }
    let act = head(api.act_id(&headers)?, Some(&request.reason))?;
    api.have_rides(&operator, RidesRequest::Refund { act, ride_id, amount: request.amount }).await.map(Json)
}

pub(super) async fn add_note(
    State(api): State<Api>,
    Support(operator): Support,
    ride: RawId,
    headers: HeaderMap,
    Json(request): Json<NoteRequest>,
) -> Result<Json<Value>, Problem> {
    let ride_id = id(ride, "ride")?;
    let text = note(&request.text)?;
    let act = head(api.act_id(&headers)?, None)?;
    api.have_rides(&operator, RidesRequest::Note { act, ride_id, text }).await.map(Json)
}
