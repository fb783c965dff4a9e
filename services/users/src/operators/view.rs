//! What operators are shown of people; pure.

use platform::Problem;
use serde_json::{Value, json};
use streams::event::rfc3339;

use super::rows::{Found, OfferRow, Person};
use crate::offer::OfferState;
use crate::search::Search;
use crate::sign_in::SignIn;

/// 404.
pub(super) fn not_found(what: &str) -> Problem {
    Problem { message: format!("there is no such {what}"), ..Problem::not_found(what) }
}

pub(super) fn user(person: &Person) -> Value {
    json!({
        "user_id": person.user_id, "phone": person.phone, "name": person.name,
        "created_at": rfc3339::text(&person.created_at), "driver": driver(person),
    })
}

/// `None` if the user is no driver.
pub(super) fn driver(person: &Person) -> Option<Value> {
    let driver = person.driver.as_ref()?;
    let vehicle = &driver.vehicle;
    Some(json!({
        "user_id": person.user_id, "name": person.name, "status": vehicle.status,
        "suspended_until": driver.suspended_until.as_ref().map(rfc3339::text), "reviewed": driver.reviewed,
        "registered_at": rfc3339::text(&driver.registered_at), "vehicle_type": vehicle.vehicle_type,
        "plate": vehicle.plate, "make": vehicle.make, "model": vehicle.model, "color": vehicle.color,
        "on_duty": driver.on_duty,
    }))
}

pub(super) fn driver_of_ride(person: &Person) -> Value {
    let plate = person.driver.as_ref().map(|driver| &driver.vehicle.plate);
    json!({"user_id": person.user_id, "name": person.name, "phone": person.phone, "plate": plate})
}

pub(super) fn passenger_of_ride(person: &Person) -> Value {
    json!({"user_id": person.user_id, "name": person.name, "phone": person.phone})
}

pub(super) fn sign_in(sign_in: &SignIn) -> Value {
    json!({
        "id": sign_in.id, "device": sign_in.device, "created_at": rfc3339::text(&sign_in.created_at),
        "seen_at": rfc3339::text(&sign_in.seen_at),
    })
}

pub(super) fn search(search: &Search) -> Value {
    json!({
        "request_id": search.request_id, "user_id": search.user_id, "pickup": search.trip.pickup,
        "dropoff": search.trip.dropoff, "vehicle_type": search.trip.vehicle_type,
        "began_at": rfc3339::text(&search.began_at), "expires_at": rfc3339::text(&search.expires_at),
    })
}

/// What has the id that somebody looks for.
pub(super) fn found(found: &Found) -> Value {
    match found {
        Found::User(user_id) => json!({"kind": "user", "user_id": user_id}),
        Found::Search { request_id, passenger_id } => {
            json!({"kind": "request", "request_id": request_id, "user_id": passenger_id})
        }
        Found::Offer { match_id, request_id, passenger_id, driver_id } => json!({
            "kind": "match", "match_id": match_id, "request_id": request_id, "user_id": passenger_id,
            "driver_id": driver_id,
        }),
    }
}

/// Who was offered the search, when, and what came of it.
pub(super) fn offer(row: &OfferRow) -> Value {
    let reason = row.end.as_ref().map(|end| json!(end.reason)).or_else(|| row.end_reason.clone().map(Value::from));
    let state = match row.offer.state {
        OfferState::Open => "open",
        OfferState::Accepted => "accepted",
        OfferState::Declined => "declined",
        OfferState::Closed if reason.as_ref().is_some_and(|reason| reason == "expired") => "expired",
        OfferState::Closed => "closed",
    };
    json!({
        "match_id": row.offer.match_id, "driver_id": row.offer.driver_id,
        "found_at": row.found.as_ref().map(|found| rfc3339::text(&found.found_at)),
        "pickup_distance_m": row.found.as_ref().map(|found| found.pickup_distance_m),
        "pickup_eta_s": row.found.as_ref().map(|found| found.pickup_eta_s),
        "expires_at": rfc3339::text(&row.offer.expires_at), "state": state, "reason": reason,
        "rejected_at": row.end.as_ref().map(|end| rfc3339::text(&end.rejected_at)),
    })
}
