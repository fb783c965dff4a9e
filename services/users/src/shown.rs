//! What users are shown beside the bodies of events: types of what is joined to a body, and the shapes that come of it. Pure.
//!
//! A body goes into a frame byte for byte, and what is joined to it is written after its last field. So the shapes are only described here:
//! each is a body and the types that are joined to it.

use schemars::JsonSchema;
use serde::Serialize;
use streams::event::{LocationAggregate, MatchAccepted, MatchFound, RideEvent, UserBeacon};
use streams::parties::{DriverView, PassengerView};
use streams::{Position, RideId, RideStatus, UserId};

use crate::offer::view::OfferToDriver;
use crate::search::NearEndBody;

/// What is joined to the body of a match.found, a match.accepted and of the events of a ride.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct Joined {
    /// With match.found: until it expires, seconds; 0 if it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub(crate) expires_in_s: Option<f64>,
    /// To the passenger, until a day after the event: null if the account is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DriverView>")]
    #[allow(clippy::option_option)]
    pub(crate) driver: Option<Option<DriverView>>,
    /// To the driver, from match.accepted on until a day after the event: null if the account is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PassengerView>")]
    #[allow(clippy::option_option)]
    pub(crate) passenger: Option<Option<PassengerView>>,
}

/// To the passenger, until the ride starts.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct WithPin {
    /// The driver must give it in ride.start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9]{4}$"))]
    pub(crate) pin: Option<String>,
}

/// The ride of a row that a process of the version before wrote.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RideRow {
    pub(crate) ride_id: RideId,
    pub(crate) driver_id: UserId,
    pub(crate) passenger_id: UserId,
    pub(crate) version: u32,
    pub(crate) status: RideStatus,
    pub(crate) pickup: Option<Position>,
    pub(crate) dropoff: Option<Position>,
}

/// Whether an offer can be answered.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OfferStanding {
    Open,
    Accepted,
}

/// A match.found as one of its parties is shown it.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only described, as all that follow")]
pub(crate) enum FoundFrame {
    /// To the passenger.
    Whole {
        #[serde(flatten)]
        found: MatchFound,
        #[serde(flatten)]
        joined: Joined,
    },
    /// To the driver: the pickup to 100 m.
    Rounded {
        #[serde(flatten)]
        found: OfferToDriver,
        #[serde(flatten)]
        joined: Joined,
    },
}

/// A match.accepted as one of its parties is shown it.
#[derive(JsonSchema)]
#[allow(dead_code)]
pub(crate) struct AcceptedFrame {
    #[serde(flatten)]
    accepted: MatchAccepted,
    #[serde(flatten)]
    joined: Joined,
}

/// A user.finder as its passenger is shown it.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub(crate) enum FinderFrame {
    Event(streams::event::UserFinder),
    /// Before the search ends by itself.
    NearEnd(NearEndBody),
}

/// What is joined to the events of a ride.
#[derive(JsonSchema)]
#[allow(dead_code)]
pub(crate) struct RideJoined {
    #[serde(flatten)]
    joined: Joined,
    #[serde(flatten)]
    pin: WithPin,
}

/// An offer in a state.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub(crate) enum StateOffer {
    /// To the passenger, and to the driver who has accepted it.
    Whole {
        #[serde(flatten)]
        found: MatchFound,
        #[serde(flatten)]
        joined: Joined,
        state: OfferStanding,
    },
    /// To the driver.
    Rounded {
        #[serde(flatten)]
        found: OfferToDriver,
        #[serde(flatten)]
        joined: Joined,
        state: OfferStanding,
    },
}

/// A ride in a state: its newest event.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub(crate) enum StateRide {
    Event {
        #[serde(flatten)]
        ride: Box<RideEvent>,
        #[serde(flatten)]
        joined: Joined,
        #[serde(flatten)]
        pin: WithPin,
    },
    /// Of a row of the version before.
    Row {
        #[serde(flatten)]
        ride: RideRow,
        #[serde(flatten)]
        joined: Joined,
        #[serde(flatten)]
        pin: WithPin,
    },
}

/// The data of an event in a mailbox, in the order of their subjects.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub(crate) enum MailboxData {
    Beacon(UserBeacon),
    Finder(FinderFrame),
    Found(FoundFrame),
    Accepted(AcceptedFrame),
    Rejected(streams::event::MatchRejected),
    Ride(Box<StateRide>),
    Aggregate(LocationAggregate),
}
