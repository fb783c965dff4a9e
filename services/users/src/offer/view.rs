//! An offer as its driver sees it before the acceptance: near enough to decide, and no more than that of somebody whom the driver may
//! never meet. Pure.

use geospatial::rounding::{bearing_deg, snapped};
use serde_json::{Map, Value};
use streams::Event;
use streams::event::MatchFound;

/// To so many metres a driver sees the pickup, and how far the dropoff is from it.
const ROUNDED_M: f64 = 100.0;
const ROUNDED_S: f64 = 10.0;

/// The body of the driver's copy of match.found. Of the pickup it has the next point of a grid of 100 m, and distance and ETA to that;
/// of the dropoff the distance to 100 m and the direction to a degree.
pub(crate) fn for_driver(found: &MatchFound) -> Map<String, Value> {
    let pickup = snapped(&found.pickup, ROUNDED_M);
    let (mut pickup_distance_m, usual_s) = pricing::estimate(&found.driver_location, &pickup);
    // At the speed by which match has estimated, to a tenth: the exact times would show how far the exact pickup is.
    let speed_mps = (found.pickup_distance_m / found.pickup_eta_s * 10.0).round() / 10.0;
    let is_known = speed_mps.is_finite() && speed_mps > 0.0;
    let mut pickup_eta_s = if is_known { (pickup_distance_m / speed_mps * 100.0).round() / 100.0 } else { usual_s };
    if found.estimated == Some(false) {
        // By road, as match knows it; rounded, because the way to the exact pickup is of another length for each door.
        pickup_distance_m = (found.pickup_distance_m / ROUNDED_M).round() * ROUNDED_M;
        pickup_eta_s = (found.pickup_eta_s / ROUNDED_S).round() * ROUNDED_S;
    }
    let dropoff_distance_m = (pickup.distance_m(&found.dropoff) / ROUNDED_M).round() * ROUNDED_M;
    let dropoff_bearing_deg = bearing_deg(&pickup, &found.dropoff).round().rem_euclid(360.0);
    let rounded = MatchFound { pickup, pickup_distance_m, pickup_eta_s, ..found.clone() };
    let mut body: Map<String, Value> =
        serde_json::from_slice(&Event::MatchFound(rounded).body()).expect("an event is a JSON object");
    body.remove("dropoff");
    body.insert("dropoff_distance_m".to_owned(), dropoff_distance_m.into());
    body.insert("dropoff_bearing_deg".to_owned(), dropoff_bearing_deg.into());
    body
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use streams::{MatchId, Money, Position, RequestId, UserId, VehicleType};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_driver_sees_the_pickup_to_100_m_and_the_dropoff_as_a_direction() {
        let at = |lat: f64, lng: f64| Position { lat, lng };
        let found = |metres_north: f64| MatchFound {
            match_id: MatchId(Uuid::nil()),
            request_id: RequestId(Uuid::nil()),
            driver_id: UserId(Uuid::nil()),
            passenger_id: UserId(Uuid::nil()),
            driver_location: at(40.75, -73.99),
            pickup: at(40.748_4 + metres_north / 111_195.0, -73.985_7),
            dropoff: at(40.70, -73.985_7),
            vehicle_type: VehicleType::Car,
            pickup_distance_m: 404.123,
            pickup_eta_s: 75.5,
            fare_estimate: Money::usd(900),
            market_id: None,
            estimated: None,
            found_at: DateTime::UNIX_EPOCH,
            expires_at: DateTime::UNIX_EPOCH,
        };
        let body = for_driver(&found(0.0));
        assert!(body.get("dropoff").is_none() && !Value::from(body.clone()).to_string().contains("404.123"));
        let pickup: Position = serde_json::from_value(body["pickup"].clone()).unwrap();
        assert!(pickup.distance_m(&found(0.0).pickup) < 71.0 && pickup != found(0.0).pickup);
        let distance_m = body["dropoff_distance_m"].as_f64().unwrap();
        assert!((5_300.0..5_500.0).contains(&distance_m) && distance_m % 100.0 == 0.0, "{distance_m}");
        assert!((178.0..=182.0).contains(&body["dropoff_bearing_deg"].as_f64().unwrap()));
        // Of pickups near to each other, most look the same in every field.
        let bodies: Vec<Value> = (0..10).map(|metres| for_driver(&found(f64::from(metres))).into()).collect();
        assert!(bodies.iter().filter(|body| **body == bodies[0]).count() >= 5);
    }
}
