//! What operators are shown of people; pure.

use platform::Problem;
use streams::operators::shown::{
    DriverOfRide, OperatorsDriver, OperatorsOffer, OperatorsSearch, OperatorsSignIn, OperatorsUser, PassengerOfRide,
};

use super::rows::{OfferRow, Person};
use crate::offer::OfferState;
use crate::offer::rows::reason_text;
use crate::search::Search;
use crate::sign_in::SignIn;

/// 404.
pub(super) fn not_found(what: &str) -> Problem {
    Problem { message: format!("there is no such {what}"), ..Problem::not_found(what) }
}

pub(super) fn user(person: &Person) -> OperatorsUser {
    OperatorsUser {
        user_id: person.user_id,
        phone: person.phone.clone(),
        name: person.name.clone(),
        created_at: person.created_at.into(),
        driver: driver(person),
    }
}

/// `None` if the user is no driver.
pub(super) fn driver(person: &Person) -> Option<OperatorsDriver> {
    let driver = person.driver.as_ref()?;
    let vehicle = driver.vehicle.clone();
    Some(OperatorsDriver {
        user_id: person.user_id,
        name: person.name.clone(),
        status: vehicle.status.as_str(),
        suspended_until: driver.suspended_until.map(Into::into),
        reviewed: driver.reviewed,
        registered_at: driver.registered_at.into(),
        vehicle_type: vehicle.vehicle_type,
        plate: vehicle.plate,
        make: vehicle.make,
        model: vehicle.model,
        color: vehicle.color,
        on_duty: driver.on_duty,
    })
}

pub(super) fn driver_of_ride(person: &Person) -> DriverOfRide {
    let plate = person.driver.as_ref().map(|driver| driver.vehicle.plate.clone());
    DriverOfRide { user_id: person.user_id, name: person.name.clone(), phone: person.phone.clone(), plate }
}

pub(super) fn passenger_of_ride(person: &Person) -> PassengerOfRide {
    PassengerOfRide { user_id: person.user_id, name: person.name.clone(), phone: person.phone.clone() }
}

pub(super) fn sign_in(sign_in: &SignIn) -> OperatorsSignIn {
    OperatorsSignIn {
        id: sign_in.id,
        device: sign_in.device.clone(),
        created_at: sign_in.created_at.into(),
        seen_at: sign_in.seen_at.into(),
    }
}

pub(super) fn search(search: &Search) -> OperatorsSearch {
    OperatorsSearch {
        request_id: search.request_id,
        user_id: search.user_id,
        pickup: search.trip.pickup,
        dropoff: search.trip.dropoff,
        vehicle_type: search.trip.vehicle_type,
        began_at: search.began_at.into(),
        expires_at: search.expires_at.into(),
    }
}

/// Who was offered the search, when, and what came of it.
pub(super) fn offer(row: &OfferRow) -> OperatorsOffer {
    let end = row.end.as_ref();
    let reason = end.map(|end| reason_text(end.reason).to_owned()).or_else(|| row.end_reason.clone());
    let state = match row.offer.state {
        OfferState::Open => "open",
        OfferState::Accepted => "accepted",
        OfferState::Declined => "declined",
        OfferState::Closed if reason.as_deref() == Some("expired") => "expired",
        OfferState::Closed => "closed",
    };
    OperatorsOffer {
        match_id: row.offer.match_id,
        driver_id: row.offer.driver_id,
        found_at: row.found_at.map(Into::into),
        expires_at: row.offer.expires_at.into(),
        state,
        reason,
        rejected_at: end.map(|end| end.rejected_at.into()),
    }
}
