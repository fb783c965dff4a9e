//! The state of a user: everything that a client needs to draw its screen, as `GET /v1/state` and the welcome of a socket have it.
//!
//! It is one snapshot with its `seq`: who connects with `last_seq` = `seq` misses nothing of what came later, and receives nothing of it
//! twice. `rows` reads it in one statement. What it shows of others is joined as in every frame (`party`), and what the user owes is
//! asked of rides (`debts`): without an answer the state is complete but for `debts`, and says so in `unavailable`.

pub(crate) mod debts;
pub(crate) mod rows;

use chrono::{DateTime, Utc};
use platform::StoreError;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};
use streams::UserId;
use streams::debts::DebtView;
use streams::event::{MatchFound, UserBeacon, UserFinder, rfc3339};

use crate::account::Profile;
use crate::context::Context;
use crate::live_ride::{CurrentRide, Destination};
use crate::offer::{Offer, OfferState, view};
use crate::party::{self, FrameBody};
use crate::presence::Beacon;
use crate::search::Search;
use crate::shown::{OfferStanding, RideRow, StateOffer, StateRide};

pub(crate) use self::rows::StateRows;

/// Everything that a client needs to draw its screen; null is what there is not.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "State")]
pub(crate) struct StateView {
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    server_time: DateTime<Utc>,
    /// The newest `seq` of the mailbox at that moment.
    seq: u64,
    user: Option<Profile>,
    /// The open one: the fields of its user.finder.
    pub(crate) search: Option<UserFinder>,
    /// The one that is made to the user as a driver, or else for the user's search.
    #[schemars(with = "Option<StateOffer>")]
    pub(crate) offer: Value,
    /// The live one.
    #[schemars(with = "Option<StateRide>")]
    pub(crate) ride: Value,
    pub(crate) beacon: Option<BeaconView>,
    /// What the user owes; null if it is nothing, or unknown.
    pub(crate) debts: Option<Vec<DebtView>>,
    /// Parts that are unknown at the moment.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    unavailable: &'static [&'static str],
}

/// A driver's beacon: the fields of its user.beacon, of which `active` is what the driver wants.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Beacon")]
pub(crate) struct BeaconView {
    #[serde(flatten)]
    beacon: UserBeacon,
    /// Whether a socket is open: with both, offers come.
    connected: bool,
}

/// Reads the state of `user`: a snapshot of its own.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn of(context: &Context, user: UserId) -> Result<StateView, StoreError> {
    let mut tx = context.store.begin().await?;
    let rows = rows::read(&mut tx, user, context.platform.world.now()).await?;
    drop(tx);
    complete(context, user, rows).await
}

/// The state that `rows` say, with the other party and the debts.
///
/// # Errors
/// [`StoreError`] if the other party cannot be read.
pub(crate) async fn complete(context: &Context, user: UserId, rows: StateRows) -> Result<StateView, StoreError> {
    let now = context.platform.world.now();
    let offer = rows.offer.as_ref().and_then(|(offer, found)| offer_body(offer, found.as_deref()?, user));
    let ride = rows.ride.as_ref().map(|(ride, event)| {
        let pin = (ride.passenger_id == user && ride.destination() == Destination::Pickup)
            .then(|| context.tokens.ride_pin(ride.ride_id));
        ride_body(ride, event.as_deref(), pin)
    });
    let both = [("match", offer), ("ride", ride)];
    let bodies: Vec<(&str, Value)> = both.into_iter().filter_map(|(name, body)| Some((name, body?))).collect();
    let texts: Vec<String> = bodies.iter().map(|(_, body)| body.to_string()).collect();
    let frames: Vec<FrameBody<'_>> = bodies
        .iter()
        .zip(&texts)
        .map(|((name, body), text)| FrameBody { viewer: user, subject: subject(name, body), time: now, body: text })
        .collect();
    let (joined, debts) = tokio::join!(party::join(context, &frames), debts::of(context, user));
    let joined: Vec<Value> = joined?.iter().map(|text| serde_json::from_str(text).unwrap_or_default()).collect();
    let part = |wanted: &str| {
        let found = bodies.iter().zip(&joined).find(|((name, _), _)| *name == wanted);
        found.map_or(Value::Null, |(_, body)| body.clone())
    };
    let search = rows.search.as_ref().map(Search::opened);
    Ok(StateView {
        server_time: now,
        seq: rows.seq,
        search,
        offer: part("match"),
        ride: part("ride"),
        beacon: rows.beacon.as_ref().map(beacon_view),
        unavailable: if debts.is_none() { &["debts"] } else { &[] },
        debts: debts.filter(|debts| !debts.is_empty()),
        user: rows.profile,
    })
}

/// By whose rules the other party is shown: an open offer as its match.found, an accepted one as its match.accepted.
fn subject(name: &str, body: &Value) -> &'static str {
    match (name, body["state"].as_str()) {
        ("ride", _) => "ride.state",
        (_, Some("accepted")) => "match.accepted",
        _ => "match.found",
    }
}

fn beacon_view(beacon: &Beacon) -> BeaconView {
    BeaconView { beacon: UserBeacon { active: beacon.active, ..beacon.event() }, connected: beacon.connected }
}

/// The fields of its match.found as `viewer` receives it, and its `state`. `None` if it cannot be read.
fn offer_body(offer: &Offer, found: &str, viewer: UserId) -> Option<Value> {
    let found = MatchFound { terms: None, ..serde_json::from_str(found).ok()? };
    let (mut body, state) = match offer.state {
        OfferState::Accepted => (json!(found), OfferStanding::Accepted),
        _ if viewer == offer.driver_id && viewer != offer.passenger_id => {
            (json!(view::for_driver(&found)), OfferStanding::Open)
        }
        _ => (json!(found), OfferStanding::Open),
    };
    body["state"] = json!(state);
    Some(body)
}

/// The fields of its newest event, with the PIN. From a row without the event, what the row knows.
fn ride_body(ride: &CurrentRide, event: Option<&str>, pin: Option<String>) -> Value {
    let body = event.and_then(|event| serde_json::from_str::<Map<String, Value>>(event).ok());
    let mut body = body.map(Value::Object).unwrap_or_else(|| {
        json!(RideRow {
            ride_id: ride.ride_id,
            driver_id: ride.driver_id,
            passenger_id: ride.passenger_id,
            version: ride.version,
            status: ride.status,
            pickup: ride.places.map(|places| places.pickup),
            dropoff: ride.places.map(|places| places.dropoff),
        })
    });
    if let Some(pin) = pin {
        body["pin"] = pin.into();
    }
    body
}
