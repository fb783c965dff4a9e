//! `location.update`: positions go straight to the stream, without rows and without the outbox.
//!
//! Nobody's positions delay another driver's: a frame goes out in parts, over the user's own lane (`publish_lane`). A frame of
//! more points than one part is what a phone collected while it was offline; all such frames together have fewer messages in
//! flight than the others, which say where drivers are now.
//!
//! Of a free driver only the newest position is of use. While the readers are behind, it waits for room (`window.rs`), and a newer one
//! takes its place.
//!
//! An acknowledged position is not lost: while the stream is nearly full nothing is published that would push out what was not read
//! (`stream_room.rs`). The live lane goes on.

use std::time::Duration;

use chrono::{DateTime, Utc};
use platform::kill_point;
use streams::event::{LocationUpdate, Reception};
use streams::{Bus, Message, Service, Subject};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::ack::PositionsAck;
use super::command::{Point, Positions, Refusal};
use super::publish_lane::PART_MAX;
use super::sender::Sender;
use super::stream_room::Of;
use super::window;
use crate::account::{self, DriverStatus};
use crate::context::Context;
use crate::{live_ride, offer};

/// How long a position waits for room at most.
const HELD_MAX: Duration = Duration::from_secs(10);
/// When a phone sends again what the full stream did not take.
const FULL_RETRY_S: u64 = 5;

/// Publishes a driver's positions; returns once the stream has stored them all. While its readers are behind, positions of a free driver
/// that newer ones replace are left out, and the answer says how many (`left_out`).
///
/// # Errors
/// `not_driver` and `driver_not_approved`. `unavailable` if the stream did not store one of them: the client repeats the command, and message
/// ids make the repeat harmless.
pub(crate) async fn publish(context: &Context, sender: &Sender, positions: Positions) -> Result<PositionsAck, Refusal> {
    let Positions { points, refused, received_at, .. } = positions;
    let count = points.len();
    let updates: Vec<LocationUpdate> = points.into_iter().map(|point| update(sender, point, received_at)).collect();
    let is_known = sender.ride.is_some() || sender.driver().is_on_duty();
    let updates = if is_known { updates } else { admitted(context, sender, updates, received_at).await? };
    let not_admitted = count - updates.len();
    live_ride::publish::newest(context, sender.ride.as_ref(), &updates).await;
    let left_out = match sender.ride {
        Some(_) => send(context, sender, &updates, received_at, Room::NotNeeded).await.map(|()| 0)?,
        None => publish_free(context, sender, updates, received_at).await?,
    };
    Ok(PositionsAck { points: count, refused, left_out: left_out + not_admitted })
}

/// The positions that somebody who is neither on duty nor in a ride, as far as this pod knows, may send. Of a driver who is not approved nobody
/// asks where they are. But a ride outlives a suspension, and what the phone held back may be of one that has ended.
async fn admitted(
    context: &Context,
    sender: &Sender,
    mut updates: Vec<LocationUpdate>,
    received_at: DateTime<Utc>,
) -> Result<Vec<LocationUpdate>, Refusal> {
    let user = sender.user;
    let mut tx = context.store.begin().await?;
    let driver = account::rows::driver_of(&mut tx, user).await?.ok_or_else(Refusal::not_driver)?;
    if driver.status == DriverStatus::Approved {
        return Ok(updates);
    }
    let refused = Refusal::not_approved(driver.status);
    // Of the last day.
    let Some((accepted, _)) = offer::rows::newest_accepted(&mut tx, user).await? else { return Err(refused) };
    let is_live = live_ride::rows::current(&mut tx, user).await?.driven.is_some()
        || offer::rows::any_without_ride(&mut tx, &[accepted], context.platform.world.now()).await?;
    if !is_live {
        updates.retain(|update| update.is_late(received_at));
    }
    if updates.is_empty() { Err(refused) } else { Ok(updates) }
}

/// Publishes positions of a driver without a ride, and returns how many are left out.
async fn publish_free(
    context: &Context,
    sender: &Sender,
    updates: Vec<LocationUpdate>,
    received_at: DateTime<Utc>,
) -> Result<usize, Refusal> {
    let lane = &sender.publish_lane;
    if !lane.holds(&sender.device_name) && context.window.has_room(updates.len().min(PART_MAX), Instant::now()) {
        return send(context, sender, &updates, received_at, Room::Needed).await.map(|()| 0);
    }
    // What the phone held back may be of a ride that has ended since.
    let (late, current): (Vec<_>, Vec<_>) = updates.into_iter().partition(|update| update.is_late(received_at));
    if !late.is_empty() {
        send(context, sender, &late, received_at, Room::NotNeeded).await?;
    }
    let count = current.len();
    let Some(newest) = current.into_iter().max_by_key(|update| update.recorded_at) else { return Ok(0) };
    // Each position that is left out counts once: those of this frame here, a held one when a newer one takes its place.
    let count_left_out = |n: usize| {
        context.platform.metrics.positions_left_out.with_label_values(&[Service::Users.name()]).inc_by(n as u64);
    };
    count_left_out(count - 1);
    let (id, Some(turn)) = (newest.recorded_at, lane.hold(&sender.device_name, newest)) else {
        count_left_out(1);
        return Ok(count);
    };
    let _of_user = lane.enter(1).await.ok_or_else(Refusal::unavailable)?;
    let room = enter_window(context, 1).await.inspect_err(|_| count_left_out(1))?;
    require_stream_room(context, Of::Free, 1).await.inspect_err(|_| count_left_out(1))?;
    let _of_pod = permits(&context.publish_permits, 1).await?;
    // Its turn has come: whichever position is the newest now goes out.
    let Some(held) = turn.take() else { return Ok(count) };
    let is_own = held.recorded_at == id;
    publish_part(context, vec![message(&held, context.new_trace().as_str())], Some(room)).await?;
    let held_at = held.reception.as_ref().map_or(received_at, |reception| reception.received_at);
    on_stored(context, sender, &[held], held_at);
    Ok(if is_own { count - 1 } else { count })
}

/// Whether positions need room in the pod's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Needed,
    NotNeeded,
}

/// Returns once the stream has stored the positions. Each part waits for its own room, after the user's lane, so that who sends much holds
/// no room while others wait.
async fn send(
    context: &Context,
    sender: &Sender,
    updates: &[LocationUpdate],
    received_at: DateTime<Utc>,
    room: Room,
) -> Result<(), Refusal> {
    let trace = context.new_trace();
    let in_flight = if updates.len() <= PART_MAX { &context.publish_permits } else { &context.batch_permits };
    for part in updates.chunks(PART_MAX) {
        let _of_user = sender.publish_lane.enter(part.len()).await.ok_or_else(Refusal::unavailable)?;
        // A phone's buffer may be of a ride that has ended.
        let of = if room == Room::Needed { Of::Free } else { Of::Ride };
        require_stream_room(context, of, part.len()).await?;
        let taken = match room {
            Room::Needed => Some(enter_window(context, part.len()).await?),
            Room::NotNeeded => None,
        };
        let _of_pod = permits(in_flight, part.len()).await?;
        let messages = part.iter().map(|update| message(update, trace.as_str())).collect();
        publish_part(context, messages, taken).await?;
    }
    on_stored(context, sender, updates, received_at);
    Ok(())
}

fn on_stored(context: &Context, sender: &Sender, updates: &[LocationUpdate], received_at: DateTime<Utc>) {
    kill_point::reached("positions.before_ack");
    if sender.driver().record_positions(updates, received_at) {
        context.sockets.add_moved(sender.user);
    }
}

async fn enter_window(context: &Context, count: usize) -> Result<window::Room<'_>, Refusal> {
    timeout(HELD_MAX, context.window.enter(count)).await.ok().flatten().ok_or_else(Refusal::unavailable)
}

/// Refuses positions that would push others out of the stream, which nobody has read yet.
async fn require_stream_room(context: &Context, of: Of, count: usize) -> Result<(), Refusal> {
    if context.stream_room.has_room(&context.platform, of, count).await {
        return Ok(());
    }
    Err(Refusal { retry_after_s: Some(FULL_RETRY_S), ..Refusal::unavailable() })
}

async fn permits(semaphore: &Semaphore, count: usize) -> Result<SemaphorePermit<'_>, Refusal> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    semaphore.acquire_many(count).await.map_err(|_| Refusal::unavailable())
}

async fn publish_part(
    context: &Context,
    part: Vec<Message>,
    mut room: Option<window::Room<'_>>,
) -> Result<(), Refusal> {
    // In memory nothing is sent, and a simulated process takes its own tasks with it.
    let results = match context.platform.bus {
        Bus::Nats(_) => context.joint_publish.publish(&context.platform, part).await,
        Bus::Memory(_) => context.platform.publish_all(part).await,
    };
    let (published, now) = (results.iter().filter_map(|r| r.as_ref().ok()), Instant::now());
    let mut count = 0;
    for published in published {
        count += 1;
        context.stream_room.published(published, now);
        if let Some(room) = &mut room {
            room.published(published.sequence, now);
        }
    }
    context.platform.metrics.published.with_label_values(&[Service::Users.name()]).inc_by(count);
    match results.into_iter().find_map(Result::err) {
        Some(error) => {
            tracing::warn!(%error, "positions were not published");
            Err(Refusal::unavailable())
        }
        None => Ok(()),
    }
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
    let (subject, id, entity) = (Subject::LocationUpdate.as_str(), update.message_id(), update.user_id.to_string());
    let (at, body) = (update.recorded_at, update.body().into());
    platform::relay::message(subject, &id, &entity, at, traceparent, Service::Users, body)
}
