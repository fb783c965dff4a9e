//! `location.update`: positions go straight to the stream, without rows and without the outbox.
//!
//! Nobody's positions delay another driver's: a frame goes out in parts, over the user's own lane (`publish_lane`). A frame of
//! more points than one part is what a phone collected while it was offline; all such frames together have fewer messages in
//! flight than the others, which say where drivers are now.

use chrono::{DateTime, Utc};
use platform::{StoreError, kill_point};
use serde_json::{Value, json};
use streams::event::{LocationUpdate, Reception};
use streams::{BusError, Event, Message, Service, UserId};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::command::{Point, Positions, Refusal};
use super::publish_lane::PART_MAX;
use super::sender::Sender;
use crate::account;
use crate::context::Context;
use crate::live_ride;

pub(crate) async fn is_driver(context: &Context, user: UserId) -> Result<bool, StoreError> {
    let mut tx = context.store.begin().await?;
    Ok(account::rows::driver_of(&mut tx, user).await?.is_some())
}

/// Publishes a driver's positions; returns once the stream has stored them all.
///
/// # Errors
/// `unavailable` if the stream did not store one of them. The client repeats the command, and message ids make the repeat
/// harmless.
pub(crate) async fn publish(context: &Context, sender: &Sender, positions: Positions) -> Result<Value, Refusal> {
    let Positions { points, refused, received_at, .. } = positions;
    let count = points.len();
    let trace = context.new_trace();
    let updates: Vec<LocationUpdate> = points.into_iter().map(|point| update(sender, point, received_at)).collect();
    live_ride::publish::newest(context, sender.ride.as_ref(), &updates).await;
    let mut messages: Vec<Message> = updates.iter().map(|update| message(update, trace.as_str())).collect();
    let in_flight = if count <= PART_MAX { &context.publish_permits } else { &context.batch_permits };
    while !messages.is_empty() {
        let part: Vec<Message> = messages.drain(..messages.len().min(PART_MAX)).collect();
        let _of_user = sender.publish_lane.enter(part.len()).await.ok_or_else(Refusal::unavailable)?;
        let _of_pod = permits(in_flight, part.len()).await?;
        publish_part(context, part).await.map_err(|error| {
            tracing::warn!(%error, "positions were not published");
            Refusal::unavailable()
        })?;
    }
    kill_point::reached("positions.before_ack");
    if sender.driver().record_positions(&updates, received_at) {
        context.sockets.add_moved(sender.user);
    }
    Ok(if refused.is_empty() { json!({"points": count}) } else { json!({"points": count, "refused": refused}) })
}

async fn permits(semaphore: &Semaphore, count: usize) -> Result<SemaphorePermit<'_>, Refusal> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    semaphore.acquire_many(count).await.map_err(|_| Refusal::unavailable())
}

async fn publish_part(context: &Context, part: Vec<Message>) -> Result<(), BusError> {
    let results = context.platform.publish_all(part).await;
    let published = results.iter().filter(|r| r.is_ok()).count();
    context.platform.metrics.published.with_label_values(&[Service::Users.name()]).inc_by(published as u64);
    results.into_iter().find_map(Result::err).map_or(Ok(()), Err)
}

/// The event of a point whose times are corrected.
fn update(sender: &Sender, point: Point, received_at: DateTime<Utc>) -> LocationUpdate {
    let Point { location, accuracy_m, speed_mps, heading_deg, device_at, sent_at, recorded_at, .. } = point;
    LocationUpdate {
        user_id: sender.user,
        ride_id: sender.ride.map(|ride| ride.ride_id),
        location,
        accuracy_m,
        speed_mps,
        heading_deg,
        recorded_at,
        reception: Some(Reception {
            device: sender.device_name.to_string(),
            ride_device: sender.ride_device,
            device_at,
            sent_at,
            received_at,
        }),
    }
}

fn message(update: &LocationUpdate, traceparent: &str) -> Message {
    let (at, entity) = (update.recorded_at, update.user_id.to_string());
    let event = Event::LocationUpdate(update.clone());
    let id = event.message_id(at);
    let (subject, body) = (event.subject().as_str(), event.body().into());
    platform::relay::message(subject, &id, &entity, at, traceparent, Service::Users, body)
}
