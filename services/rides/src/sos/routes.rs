//! `POST /v1/rides/{id}/sos`, and what operators do to alerts.

use chrono::{DateTime, Utc};
use platform::problem::Object;
use platform::store::Retry;
use platform::{Platform, Problem, Store, StoreError, Transaction, World};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use streams::event::rfc3339;
use streams::person::SosRaised;
use streams::{Position, RideId, UserId};
use uuid::Uuid;

use super::{Alert, Call, raise, rows};
use crate::ride::rows::lock_ride_of;
use crate::tables::Tables;

#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct SosRequest {
    /// Where the caller is, if the phone knows.
    location: Option<Object<Position>>,
    /// At most 500 characters.
    note: Option<String>,
}

/// A call for help as its caller sees it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "SosAlert")]
pub(crate) struct SosView {
    sos_id: Uuid,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    raised_at: DateTime<Utc>,
    operators: Operators,
}

/// Whether operators know of a call for help.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operators {
    /// They do.
    Informed,
    /// They could not be reached: call the emergency number.
    NotReached,
    /// They are being informed.
    BeingInformed,
    /// This platform has none: call the emergency number.
    None,
}

/// Raises an alert, or repeats one. It is stored when this returns; `has_sink` says whether somebody is to hear of it.
pub(crate) async fn call(
    (platform, store): (&Platform, &Store<Tables>),
    (ride, user): (RideId, UserId),
    request: SosRequest,
    has_sink: bool,
) -> Result<SosView, Problem> {
    let call = Call::new(request.location.map(|Object(location)| location), request.note.as_deref())?;
    let new_id = platform.world.id::<Uuid>();
    let retry = Retry::SerializationOrConflict;
    let raised = store.transact(retry, |tx| call_in(tx, &platform.world, (ride, user), call.clone(), new_id)).await;
    let (alert, is_new) = raised??;
    if is_new {
        let (sos_id, ride_id) = (alert.sos_id, alert.ride_id);
        platform.metrics.sos.with_label_values(&[if has_sink { "raised" } else { "no_sink" }]).inc();
        if has_sink {
            tracing::warn!(%sos_id, %ride_id, round = alert.round, "somebody calls for help");
        } else {
            tracing::error!(%sos_id, %ride_id, "somebody calls for help, and no SOS_WEBHOOK is set: nobody is informed");
        }
    }
    Ok(SosView { sos_id: alert.sos_id, raised_at: alert.raised_at, operators: operators(&alert, has_sink) })
}

/// Whether operators know.
fn operators(alert: &Alert, has_sink: bool) -> Operators {
    match (alert.delivery.accepted_at, alert.delivery.dead_at) {
        (Some(_), _) => Operators::Informed,
        (None, Some(_)) => Operators::NotReached,
        (None, None) if has_sink => Operators::BeingInformed,
        (None, None) => Operators::None,
    }
}

async fn call_in(
    mut tx: Transaction<Tables>,
    world: &World,
    (ride, user): (RideId, UserId),
    call: Call,
    new_id: Uuid,
) -> Result<Result<(Alert, bool), Problem>, StoreError> {
    let Some(ride) = lock_ride_of(&mut tx, ride, user).await? else { return Ok(Err(Problem::not_found("ride"))) };
    let known = rows::lock_of(&mut tx, ride.ride_id, user).await?;
    let round = known.as_ref().map_or(0, |known| known.round);
    let alert = match raise(&ride, user, known, call, new_id, world.now()) {
        Ok(alert) => alert,
        Err(problem) => return Ok(Err(problem)),
    };
    rows::put(&mut tx, &alert).await?;
    tx.commit().await?;
    let is_new = alert.round != round;
    Ok(Ok((alert, is_new)))
}

/// Open alerts, the newest first.
///
/// # Errors
/// [`StoreError`].
pub async fn open_alerts(store: &Store<Tables>) -> Result<Vec<Alert>, StoreError> {
    let mut tx = store.begin().await?;
    rows::open(&mut tx).await
}

/// Closes an alert, so that no positions go out any more; a repeat has no effect. False if there is none.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub async fn close_alert(store: &Store<Tables>, world: &World, sos_id: Uuid, reason: &str) -> Result<bool, StoreError> {
    let mut tx = store.begin().await?;
    let Some(alert) = rows::lock(&mut tx, sos_id).await? else { return Ok(false) };
    if alert.closed.is_none() {
        rows::put(&mut tx, &Alert { closed: Some((world.now(), reason.to_owned())), ..alert }).await?;
        tx.commit().await?;
    }
    Ok(true)
}

/// An alert as whoever raised it may have it.
pub(crate) fn view(alert: &Alert) -> SosRaised {
    SosRaised {
        sos_id: alert.sos_id,
        ride_id: alert.ride_id,
        raised_at: alert.raised_at,
        note: alert.note.clone(),
        location: alert.place.map(|(at, _)| at),
        closed_at: alert.closed.as_ref().map(|(at, _)| *at),
    }
}
