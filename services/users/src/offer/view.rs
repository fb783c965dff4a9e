//! An offer as its driver sees it before the acceptance: near enough to decide, and no more than that of somebody whom the driver may
//! never meet. Pure.

use chrono::{DateTime, Utc};
use geospatial::rounding::{bearing_deg, snapped};
use schemars::JsonSchema;
use serde::Serialize;
use streams::event::{MatchFound, rfc3339};
use streams::{MatchId, Money, Position, RequestId, UserId, VehicleType};

/// To so many metres a driver sees the pickup, and how far the dropoff is from it.
const ROUNDED_M: f64 = 100.0;
const ROUNDED_S: f64 = 10.0;

/// The driver's copy of match.found before the acceptance. Of the pickup it has the next point of a grid of 100 m, and distance and ETA to that;
/// of the dropoff the distance to 100 m and the direction to a degree.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct OfferToDriver {
    match_id: MatchId,
    request_id: RequestId,
    driver_id: UserId,
    passenger_id: UserId,
    driver_location: Position,
    /// To 100 m.
    pickup: Position,
    /// From the pickup, metres.
    #[schemars(range(min = 0))]
    dropoff_distance_m: f64,
    /// From the pickup, degrees from true north.
    #[schemars(range(min = 0, max = 360))]
    dropoff_bearing_deg: f64,
    vehicle_type: VehicleType,
    /// From the driver to `pickup`, metres.
    #[schemars(range(min = 0))]
    pickup_distance_m: f64,
    /// From the driver to `pickup`, seconds.
    #[schemars(range(min = 0))]
    pickup_eta_s: f64,
    fare_estimate: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    market_id: Option<String>,
    /// False: times and distances are those of a street network. True: the great circle times 1.3.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated: Option<bool>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    found_at: DateTime<Utc>,
    /// The last moment for an answer.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    expires_at: DateTime<Utc>,
}

/// The body of the driver's copy of match.found.
pub(crate) fn for_driver(found: &MatchFound) -> OfferToDriver {
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
    OfferToDriver {
        match_id: found.match_id,
        request_id: found.request_id,
        driver_id: found.driver_id,
        passenger_id: found.passenger_id,
        driver_location: found.driver_location,
        pickup,
        dropoff_distance_m: (pickup.distance_m(&found.dropoff) / ROUNDED_M).round() * ROUNDED_M,
        dropoff_bearing_deg: bearing_deg(&pickup, &found.dropoff).round().rem_euclid(360.0),
        vehicle_type: found.vehicle_type,
        pickup_distance_m,
        pickup_eta_s,
        fare_estimate: found.fare_estimate,
        market_id: found.market_id.clone(),
        estimated: found.estimated,
        found_at: found.found_at,
        expires_at: found.expires_at,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
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
            terms: None,
            estimated: None,
            found_at: DateTime::UNIX_EPOCH,
            expires_at: DateTime::UNIX_EPOCH,
        };
        let body = json!(for_driver(&found(0.0)));
        assert!(body.get("dropoff").is_none() && !body.to_string().contains("404.123"));
        let pickup: Position = serde_json::from_value(body["pickup"].clone()).unwrap();
        assert!(pickup.distance_m(&found(0.0).pickup) < 71.0 && pickup != found(0.0).pickup);
        let distance_m = body["dropoff_distance_m"].as_f64().unwrap();
        assert!((5_300.0..5_500.0).contains(&distance_m) && distance_m % 100.0 == 0.0, "{distance_m}");
        assert!((178.0..=182.0).contains(&body["dropoff_bearing_deg"].as_f64().unwrap()));
        // Of pickups near to each other, most look the same in every field.
        let bodies: Vec<Value> = (0..10).map(|metres| json!(for_driver(&found(f64::from(metres))))).collect();
        assert!(bodies.iter().filter(|body| **body == bodies[0]).count() >= 5);
    }
}
