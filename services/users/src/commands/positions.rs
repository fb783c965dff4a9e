//! `location.update`: positions go straight to the stream, without rows and without the outbox.
//!
//! Nobody's positions delay another driver's: a frame goes out in parts, over the user's own lane (`publish_lane`). A frame of
//! more points than one part is what a phone collected while it was offline; all such frames together have fewer messages in
//! flight than the others, which say where drivers are now.

use platform::{StoreError, kill_point};
use serde_json::{Value, json};
use streams::event::LocationUpdate;
use streams::{BusError, Event, Message, RideId, Service, UserId};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::command::{Point, Refusal};
use super::publish_lane::PART_MAX;
use super::sender::Sender;
use crate::account;
use crate::context::Context;

pub(crate) async fn is_driver(context: &Context, user: UserId) -> Result<bool, StoreError> {
    let mut tx = context.store.begin().await?;
    Ok(account::rows::driver_of(&mut tx, user).await?.is_some())
}

/// Publishes a driver's positions; returns once the stream has stored them all.
///
/// # Errors
/// `unavailable` if the stream did not store one of them. The client repeats the command, and message ids make the repeat
/// harmless.
pub(crate) async fn publish(context: &Context, sender: &Sender, points: Vec<Point>) -> Result<Value, Refusal> {
    let count = points.len();
    let trace = context.new_trace();
    let mut messages: Vec<Message> =
        points.into_iter().map(|point| message(sender.user, sender.ride, point, trace.as_str())).collect();
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
    Ok(json!({"points": count}))
}

async fn permits(semaphore: &Semaphore, count: usize) -> Result<SemaphorePermit<'_>, Refusal> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    semaphore.acquire_many(count).await.map_err(|_| Refusal::unavailable())
}

async fn publish_part(context: &Context, mut part: Vec<Message>) -> Result<(), BusError> {
    let results = match (part.len(), part.pop()) {
        (1, Some(message)) => vec![context.platform.bus.publish(message).await],
        (_, last) => {
            part.extend(last);
            context.platform.bus.publish_all(part).await
        }
    };
    let published = results.iter().filter(|r| r.is_ok()).count();
    context.platform.metrics.published.with_label_values(&[Service::Users.name()]).inc_by(published as u64);
    results.into_iter().find_map(Result::err).map_or(Ok(()), Err)
}

fn message(driver: UserId, ride: Option<RideId>, point: Point, traceparent: &str) -> Message {
    let Point { location, accuracy_m, speed_mps, heading_deg, recorded_at } = point;
    let event = Event::LocationUpdate(LocationUpdate {
        user_id: driver,
        ride_id: ride,
        location,
        accuracy_m,
        speed_mps,
        heading_deg,
        recorded_at,
        reception: None,
    });
    let (id, entity) = (event.message_id(recorded_at), driver.to_string());
    let (subject, body) = (event.subject().as_str(), event.body().into());
    platform::relay::message(subject, &id, &entity, recorded_at, traceparent, Service::Users, body)
}
