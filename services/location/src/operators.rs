//! What operators see of location: where drivers are, from the cache, and the track of a ride, from its rows. It changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use platform::{CancellationToken, Platform, Problem, Store, Tokens, operators};
use serde_json::{Value, json};
use streams::event::rfc3339;
use streams::operators::{Asked, LOCATION_OPERATORS, LocationRequest, MapQuery, TRACK_POINTS_MAX};
use streams::{RideId, Service};

use crate::cache::Cache;
use crate::positions::{DriverPositions, ShownDriver};
use crate::tables::Tables;
use crate::track::point_rows::{self, PointQuery};
use crate::track::rows::track_of;
use crate::track::{Point, on_track};

/// Answers until `stop`.
pub(crate) async fn answer(
    platform: Platform,
    store: Store<Tables>,
    (tokens, cache): (Tokens, Arc<Cache>),
    max_speed_mps: f64,
    stop: CancellationToken,
) {
    let world = platform.world.clone();
    operators::answer(
        (platform, tokens),
        (Service::Location, LOCATION_OPERATORS),
        stop,
        move |asked: Asked<LocationRequest>| {
            let (store, cache, now) = (store.clone(), cache.clone(), world.now());
            async move {
                match asked.request {
                    LocationRequest::Positions { map } => Ok(positions(&cache.positions(), &map, now)),
                    LocationRequest::Track { ride_id } => track(&store, ride_id, max_speed_mps).await,
                }
            }
        },
    )
    .await;
}

/// Who is on duty or in a ride, in the order of ids.
fn positions(positions: &DriverPositions, map: &MapQuery, now: DateTime<Utc>) -> Value {
    let within = |driver: &ShownDriver| map.within.is_none_or(|within| within.contains(&driver.place.position));
    let most = map.limit as usize;
    let mut shown: Vec<ShownDriver> = positions.shown().filter(within).take(most + 1).collect();
    let truncated = shown.len() > most;
    shown.truncate(most);
    let view = |driver: &ShownDriver| {
        json!({
            "driver_id": driver.user_id, "location": driver.place.position, "heading_deg": driver.place.heading_deg,
            "speed_mps": driver.place.speed_mps, "recorded_at": rfc3339::text(&driver.place.recorded_at),
            "age_s": (now - driver.place.recorded_at).as_seconds_f64().max(0.0), "vehicle_type": driver.vehicle_type,
            "on_duty": driver.on_duty, "ride_id": driver.ride_id,
        })
    };
    json!({"rows": shown.iter().map(view).collect::<Vec<_>>(), "truncated": truncated})
}

/// Null if no track is stored.
async fn track(store: &Store<Tables>, ride_id: RideId, max_speed_mps: f64) -> Result<Value, Problem> {
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
    let on_track = on_track(&points, max_speed_mps);
    let view = |n: usize| {
        let point = &points[n];
        json!({
            "lat": point.position.lat, "lng": point.position.lng, "at": rfc3339::text(&point.recorded_at),
            "accuracy_m": point.accuracy_m, "on_track": on_track[n],
        })
    };
    let shown: Vec<Value> = chosen(total, TRACK_POINTS_MAX).into_iter().map(view).collect();
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
