//! What operators see of location: where drivers are, from memory, and the track of a ride, from its rows. It changes nothing.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use platform::{CancellationToken, Platform, Problem, Store, Tokens, operators};
use serde_json::{Value, json};
use streams::event::rfc3339;
use streams::operators::{Asked, LOCATION_OPERATORS, LocationRequest, TRACK_POINTS_MAX};
use streams::{RideId, Service};

use crate::positions::{ShownDriver, ShownDrivers};
use crate::tables::Tables;
use crate::track::Point;
use crate::track::point_rows::{self, PointQuery};
use crate::track::rows::track_of;
use crate::zones::questions::Questions;

/// Answers until `stop`.
pub(crate) async fn answer(
    platform: Platform,
    store: Store<Tables>,
    (tokens, questions): (Tokens, Questions),
    stop: CancellationToken,
) {
    let world = platform.world.clone();
    operators::answer(
        (platform, tokens),
        (Service::Location, LOCATION_OPERATORS),
        stop,
        move |asked: Asked<LocationRequest>| {
            let (store, questions, now) = (store.clone(), questions.clone(), world.now());
            async move {
                match asked.request {
                    LocationRequest::Positions { map } => Ok(positions(&questions.shown(&map).await, now)),
                    LocationRequest::Track { ride_id } => track(&store, ride_id).await,
                }
            }
        },
    )
    .await;
}

/// Who is on duty or in a ride, in the order of ids.
fn positions(shown: &ShownDrivers, now: DateTime<Utc>) -> Value {
    let view = |driver: &ShownDriver| {
        json!({
            "driver_id": driver.user_id, "location": driver.location, "heading_deg": driver.heading_deg,
            "speed_mps": driver.speed_mps, "recorded_at": rfc3339::text(&driver.recorded_at),
            "age_s": (now - driver.recorded_at).as_seconds_f64().max(0.0), "vehicle_type": driver.vehicle_type,
            "on_duty": driver.on_duty, "ride_id": driver.ride_id,
        })
    };
    json!({"rows": shown.drivers.iter().map(view).collect::<Vec<_>>(), "truncated": shown.truncated})
}

/// Null if no track is stored.
async fn track(store: &Store<Tables>, ride_id: RideId) -> Result<Value, Problem> {
    let mut tx = store.begin().await?;
    let Some(track) = track_of(&mut tx, ride_id).await? else { return Ok(Value::Null) };
    let points = match track.driver_id {
        Some(driver_id) => point_rows::read(&mut tx, &[PointQuery { ride_id, driver_id, after_version: 0 }]).await?,
        None => Vec::new(),
    };
    drop(tx);
    let mut points: Vec<Point> = points.into_iter().map(|row| row.point).collect();
    points.sort_by_key(|point| point.recorded_at);
    let total = points.len();
    let view = |point: &Point| {
        json!({
            "lat": point.position.lat, "lng": point.position.lng, "at": rfc3339::text(&point.recorded_at),
            "accuracy_m": point.accuracy_m,
        })
    };
    let shown: Vec<Value> = chosen(total, TRACK_POINTS_MAX).into_iter().map(|n| view(&points[n])).collect();
    Ok(json!({
        "points": shown, "total_points": total, "distance_m": track.reported_at.map(|_| track.reported.distance_m),
        "is_final": track.finalised,
    }))
}

/// Which of `total` points are shown: at most `most`, evenly, the first and the last among them.
fn chosen(total: usize, most: usize) -> BTreeSet<usize> {
    if total <= most {
        return (0..total).collect();
    }
    (0..most).map(|n| n * (total - 1) / (most - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_track_is_shown_by_even_points_with_both_ends() {
        let shown = |total| chosen(total, 5).into_iter().collect::<Vec<_>>();
        assert_eq!(shown(0), Vec::<usize>::new());
        assert_eq!(shown(5), [0, 1, 2, 3, 4]);
        assert_eq!(shown(6), [0, 1, 2, 3, 5]);
        assert_eq!(shown(101), [0, 25, 50, 75, 100]);
    }
}
