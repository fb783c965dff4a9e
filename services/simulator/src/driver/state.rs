//! Where a driver stands: free, deciding on an offer, or in a ride.

use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::frame::text;
use crate::position::Position;

#[derive(Debug)]
pub(super) enum State {
    Free,
    Deciding {
        offer: Offer,
        at: Instant,
    },
    /// The offer was accepted, declined or ignored; its outcome is awaited, at most until `until`.
    Answered {
        match_id: String,
        until: Instant,
    },
    Riding {
        trip: Box<Trip>,
        leg: Leg,
    },
}

impl State {
    /// The match that the driver decides on, or whose outcome is awaited.
    pub(super) fn match_id(&self) -> Option<&str> {
        match self {
            Self::Deciding { offer, .. } => Some(&offer.match_id),
            Self::Answered { match_id, .. } => Some(match_id),
            Self::Free | Self::Riding { .. } => None,
        }
    }

    /// Trip and leg, if the driver is in this ride.
    pub(super) fn ride(&mut self, ride_id: &str) -> Option<(&mut Trip, &mut Leg)> {
        match self {
            Self::Riding { trip, leg } if trip.ride_id == ride_id => Some((trip, leg)),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) match_id: String,
    pub(super) expires_at: Instant,
}

#[derive(Debug)]
pub(super) struct Trip {
    pub(super) ride_id: String,
    pub(super) dropoff: Position,
    /// With the passenger. `None` if the phone has lost positions: then the bill is not compared.
    pub(super) driven_m: Option<f64>,
    /// The phone sends the positions only after `ride.arrive`.
    pub(super) holds_positions: bool,
    /// The next PIN is to be wrong.
    pub(super) give_wrong_pin: bool,
    /// The platform accepts no PIN before this.
    pub(super) pin_locked_until: Option<Instant>,
    pub(super) cancel_at: Option<Instant>,
    /// The driver says so when at the pickup.
    pub(super) waits: bool,
    /// The first cancellation says that the passenger did not come.
    pub(super) says_no_show: bool,
}

#[derive(Debug)]
pub(super) enum Leg {
    ToPickup,
    AtPickup {
        since: Instant,
        /// The id of the `ride.start` without an answer.
        start_id: Option<String>,
    },
    ToDropoff,
    /// The last position was sent with this command id, and is not acked yet.
    AtDropoff {
        position_id: String,
    },
    /// `ride.arrive` was sent; the platform does the rest.
    Arrived,
}

impl Trip {
    /// Of the `ride` of a state: the trip, the leg that it is on from now on, and where it leads. `None` if it lacks a place.
    pub(super) fn of_state(ride: &Value, now: Instant) -> Option<(Self, Leg, Position)> {
        let position = |field: &str| ride.get(field).and_then(|value| Position::deserialize(value).ok());
        let (pickup, dropoff) = (position("pickup")?, position("dropoff")?);
        let (leg, target) = match text(ride, "status") {
            "started" => (Leg::ToDropoff, dropoff),
            "arrived" => (Leg::Arrived, dropoff),
            "waiting" => (Leg::AtPickup { since: now, start_id: None }, pickup),
            _ => (Leg::ToPickup, pickup),
        };
        let trip = Self {
            ride_id: text(ride, "ride_id").to_owned(),
            dropoff,
            driven_m: None,
            holds_positions: false,
            give_wrong_pin: false,
            pin_locked_until: None,
            cancel_at: None,
            waits: false,
            says_no_show: false,
        };
        Some((trip, leg, target))
    }
}
