//! What operators see of location: where drivers are, from memory, and the track of a ride, from its rows. It changes nothing.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use platform::operators::shown;
use platform::{CancellationToken, Platform, Problem, Store, Tokens, operators};
use serde_json::Value;
use streams::operators::shown::{DriverOnMap, MapRows, Track, TrackPoint};
use streams::operators::{Asked, LOCATION_OPERATORS, LocationRequest, TRACK_POINTS_MAX};
use streams::{RideId, Service};

use crate::positions::{ShownDriver, ShownDrivers};
use crate::tables::Tables;
use crate::track::point_rows::{self, PointQuery};
use crate::track::rows::track_of;
use crate::track::{Point, on_track};
use crate::zones::questions::Questions;

/// Answers until `stop`.
pub(crate) async fn answer(
    platform: Platform,
    store: Store<Tables>,
    (tokens, questions): (Tokens, Questions),
    max_speed_mps: f64,
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
                    LocationRequest::Track { ride_id } => track(&store, ride_id, max_speed_mps).await,
                }
            }
        },
    )
    .await;
}

/// Who is on duty or in a ride, in the order of ids.
fn positions(found: &ShownDrivers, now: DateTime<Utc>) -> Value {
    let view = |driver: &ShownDriver| DriverOnMap {
        driver_id: driver.user_id,
        location: driver.location,
        heading_deg: driver.heading_deg,
        speed_mps: driver.speed_mps,
        recorded_at: driver.recorded_at.into(),
        age_s: (now - driver.recorded_at).as_seconds_f64().max(0.0),
        vehicle_type: driver.vehicle_type,
        on_duty: driver.on_duty,
        ride_id: driver.ride_id,
    };
    shown(&MapRows { rows: found.drivers.iter().map(view).collect(), truncated: found.truncated })
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
    let view = |n: usize| TrackPoint {
        lat: points[n].position.lat,
        lng: points[n].position.lng,
        at: points[n].recorded_at.into(),
        accuracy_m: points[n].accuracy_m,
        on_track: on_track[n],
    };
    Ok(shown(&Track {
        points: chosen(total, TRACK_POINTS_MAX).into_iter().map(view).collect(),
        total_points: total,
        distance_m: track.reported_at.map(|_| track.reported.distance_m),
        is_final: track.finalised,
        late_distance_m: track.late_distance_m,
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
    use std::collections::BTreeMap;

    use platform::World;
    use testing::{Backend, on_both_stores};

    use super::*;
    use crate::tables::TrackRow;
    use crate::track::rows::{lock_tracks, save_reported};

    on_both_stores!(a_track_says_what_points_that_came_too_late_would_have_changed,);

    async fn a_track_says_what_points_that_came_too_late_would_have_changed(backend: Backend) {
        let now = DateTime::<Utc>::UNIX_EPOCH;
        let store = backend.store::<Tables>(&World::seeded(now, 1), "test", "location", &crate::MIGRATIONS).await;
        let ride = RideId(uuid::Uuid::from_u128(7));
        for late_m in [None, Some(1_500.0)] {
            let mut tx = store.begin().await.unwrap();
            let tracks: BTreeMap<RideId, TrackRow> = lock_tracks(&mut tx, &BTreeSet::from([ride]), now).await.unwrap();
            let tracks: Vec<TrackRow> =
                tracks.into_values().map(|row| TrackRow { late_distance_m: late_m, ..row }).collect();
            save_reported(&mut tx, &tracks).await.unwrap();
            tx.commit().await.unwrap();
            let shown = track(&store, ride, 70.0).await.unwrap();
            assert_eq!(shown["late_distance_m"], serde_json::json!(late_m));
        }
    }

    #[test]
    fn a_long_track_is_shown_by_even_points_with_both_ends() {
        let shown = |total| chosen(total, 5).into_iter().collect::<Vec<_>>();
        assert_eq!(shown(0), Vec::<usize>::new());
        assert_eq!(shown(5), [0, 1, 2, 3, 4]);
        assert_eq!(shown(6), [0, 1, 2, 3, 5]);
        assert_eq!(shown(101), [0, 25, 50, 75, 100]);
    }
}
