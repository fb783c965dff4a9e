//! `location.update`: positions go straight to the stream, without rows and without the outbox.

use std::sync::Arc;

use platform::{StoreError, kill_point};
use serde_json::{Value, json};
use streams::event::LocationUpdate;
use streams::{Event, Message, RideId, Service, UserId};

use super::command::{Point, Refusal};
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
pub(crate) async fn publish(
    context: &Context,
    driver: UserId,
    ride: Option<RideId>,
    points: Vec<Point>,
) -> Result<Value, Refusal> {
    let count = points.len();
    let trace = context.new_trace();
    let mut messages: Vec<Message> =
        points.into_iter().map(|point| message(driver, ride, point, trace.as_str())).collect();
    let wanted = u32::try_from(messages.len()).unwrap_or(u32::MAX);
    let Ok(_permits) = Arc::clone(&context.publish_permits).acquire_many_owned(wanted).await else {
        return Err(Refusal::unavailable());
    };
    let results = match (messages.len(), messages.pop()) {
        (1, Some(message)) => vec![context.platform.bus.publish(message).await],
        (_, last) => {
            messages.extend(last);
            context.platform.bus.publish_all(messages).await
        }
    };
    let published = results.iter().filter(|r| r.is_ok()).count();
    context.platform.metrics.published.with_label_values(&[Service::Users.name()]).inc_by(published as u64);
    match results.into_iter().find_map(Result::err) {
        None => {
            kill_point::reached("positions.before_ack");
            Ok(json!({"points": count}))
        }
        Some(error) => {
            tracing::warn!(%error, "positions were not published");
            Err(Refusal::unavailable())
        }
    }
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
    });
    let (id, entity) = (event.message_id(recorded_at), driver.to_string());
    let (subject, body) = (event.subject().as_str(), event.body().into());
    platform::relay::message(subject, &id, &entity, recorded_at, traceparent, Service::Users, body)
}
