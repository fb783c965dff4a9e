//! The driver's end of the live lane.

use streams::event::LocationUpdate;
use streams::newest_position::NewestPosition;

use super::CurrentRide;
use super::position::{LivePosition, live_subject};
use crate::context::Context;

/// Publishes the newest of the points that a driver has just sent, if they belong to this ride. It waits for no stream and no database,
/// and nothing is stored: whoever does not receive it receives the next one.
pub(crate) async fn newest(context: &Context, ride: Option<&CurrentRide>, points: &[LocationUpdate]) {
    let Some(ride) = ride else { return };
    let of_ride = points.iter().filter(|point| point.ride_id == Some(ride.ride_id));
    let Some(point) = of_ride.max_by_key(|point| point.recorded_at) else { return };
    let position = NewestPosition::of_point(point, context.platform.world.now());
    let message = LivePosition::new(ride, position).sign(&context.tokens);
    let sent = context.platform.bus.publish_core(&live_subject(ride.ride_id), message.into()).await;
    let outcome = if sent.is_ok() { "published" } else { "publish_failed" };
    context.platform.metrics.live_positions.with_label_values(&[outcome]).inc();
    if let Err(error) = sent {
        tracing::debug!(%error, "a live position was not sent");
    }
}
