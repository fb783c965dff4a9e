//! The state of a user: everything that a client needs to draw its screen, as `GET /v1/state` and the welcome of a socket have it.
//!
//! It is one snapshot with its `seq`: who connects with `last_seq` = `seq` misses nothing of what came later, and receives nothing of it
//! twice. `rows` reads it in one statement. What it shows of others is joined as in every frame (`party`), and what the user owes is
//! asked of rides (`debts`): without an answer the state is complete but for `debts`, and says so in `unavailable`.

pub(crate) mod debts;
pub(crate) mod rows;

use chrono::{DateTime, Utc};
use platform::StoreError;
use pricing::market::Markets;
use serde_json::{Map, Value, json};
use streams::debts::DebtView;
use streams::event::rfc3339;
use streams::{Event, UserId};

use crate::context::Context;
use crate::live_ride::{CurrentRide, Destination};
use crate::offer::{Offer, OfferState, view};
use crate::party::{self, FrameBody};
use crate::presence::Beacon;
use crate::search::Search;

pub(crate) use self::rows::StateRows;

/// Reads the state of `user`: a snapshot of its own.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn of(context: &Context, user: UserId) -> Result<Value, StoreError> {
    let mut tx = context.store.begin().await?;
    let rows = rows::read(&mut tx, user, context.platform.world.now()).await?;
    drop(tx);
    complete(context, user, rows).await
}

/// The state that `rows` say, with the other party and the debts.
///
/// # Errors
/// [`StoreError`] if the other party cannot be read.
pub(crate) async fn complete(context: &Context, user: UserId, rows: StateRows) -> Result<Value, StoreError> {
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
    let markets = context.config.markets.get();
    let search = rows.search.as_ref().map(|search| search_body(search, &markets));
    Ok(body(&rows, search, part("match"), part("ride"), debts, now))
}

/// By whose rules the other party is shown: an open offer as its match.found, an accepted one as its match.accepted.
fn subject(name: &str, body: &Value) -> &'static str {
    match (name, body["state"].as_str()) {
        ("ride", _) => "ride.state",
        (_, Some("accepted")) => "match.accepted",
        _ => "match.found",
    }
}

fn body(
    rows: &StateRows,
    search: Option<Value>,
    offer: Value,
    ride: Value,
    debts: Option<Vec<DebtView>>,
    now: DateTime<Utc>,
) -> Value {
    let mut state = json!({
        "server_time": rfc3339::text(&now),
        "seq": rows.seq,
        "user": rows.profile,
        "search": search,
        "offer": offer,
        "ride": ride,
        "beacon": rows.beacon.as_ref().map(beacon_body),
        "debts": debts.as_ref().filter(|debts| !debts.is_empty()),
    });
    if debts.is_none() {
        state["unavailable"] = json!(["debts"]);
    }
    state
}

/// The fields of its user.finder, and when it expires.
fn search_body(search: &Search, markets: &Markets) -> Value {
    let mut body = object(&search.began(markets));
    body.insert("expires_at".to_owned(), rfc3339::text(&search.expires_at).into());
    body.into()
}

/// What the driver wants (`active`), and whether a socket is open (`connected`): with both, offers come.
fn beacon_body(beacon: &Beacon) -> Value {
    let mut body = object(&Event::UserBeacon(beacon.event()));
    body.insert("active".to_owned(), beacon.active.into());
    body.insert("connected".to_owned(), beacon.connected.into());
    body.into()
}

/// The fields of its match.found as `viewer` receives it, and its `state`. `None` if it cannot be read.
fn offer_body(offer: &Offer, found: &str, viewer: UserId) -> Option<Value> {
    let found = serde_json::from_str(found).ok()?;
    let (mut body, state) = match offer.state {
        OfferState::Accepted => (object(&Event::MatchFound(found)), "accepted"),
        _ if viewer == offer.driver_id && viewer != offer.passenger_id => (view::for_driver(&found), "open"),
        _ => (object(&Event::MatchFound(found)), "open"),
    };
    body.insert("state".to_owned(), state.into());
    Some(body.into())
}

/// The fields of its newest event, with the PIN. From a row without the event, what the row knows.
fn ride_body(ride: &CurrentRide, event: Option<&str>, pin: Option<String>) -> Value {
    let body = event.and_then(|event| serde_json::from_str::<Map<String, Value>>(event).ok());
    let mut body = body.map(Value::Object).unwrap_or_else(|| {
        json!({
            "ride_id": ride.ride_id, "driver_id": ride.driver_id, "passenger_id": ride.passenger_id,
            "version": ride.version, "status": ride.status,
            "pickup": ride.places.map(|places| places.pickup), "dropoff": ride.places.map(|places| places.dropoff),
        })
    });
    if let Some(pin) = pin {
        body["pin"] = pin.into();
    }
    body
}

/// The body of an event.
fn object(event: &Event) -> Map<String, Value> {
    serde_json::from_slice(&event.body()).unwrap_or_default()
}
