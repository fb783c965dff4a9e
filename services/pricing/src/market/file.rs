//! The text of MARKETS_FILE: a GeoJSON FeatureCollection (RFC 7946), one market a feature. Every mistake is named with its feature.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::Value;
use streams::{Currency, VehicleType};

use super::area::Area;
use super::rules::{Approval, MAX_TRIP_KM, Market, Speed};
use crate::{Tariff, Tariffs};

/// Markets of one file.
const MARKETS_MAX: usize = 1_000;
/// Amounts of a tariff, minor units: a kilometre costs 30,000 in some currencies.
const AMOUNT_MAX: i64 = 100_000_000;

#[derive(Deserialize)]
struct Collection {
    r#type: String,
    features: Vec<Value>,
}

#[derive(Deserialize)]
struct Feature {
    geometry: Geometry,
    properties: Properties,
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "coordinates")]
enum Geometry {
    Polygon(Vec<Vec<Corner>>),
    MultiPolygon(Vec<Vec<Vec<Corner>>>),
}

/// `[longitude, latitude]`; a height behind them is ignored.
#[derive(Deserialize)]
struct Corner(Vec<f64>);

/// Members that are not named here are ignored, as GeoJSON has it.
#[derive(Deserialize)]
struct Properties {
    market_id: String,
    name: Option<String>,
    currency: Currency,
    time_zone: String,
    driver_approval: Option<String>,
    fares: BTreeMap<String, TariffProperties>,
    offer_ttl_s: Option<u32>,
    request_ttl_s: Option<u32>,
    radius_m: Option<f64>,
    radius_max_m: Option<f64>,
    max_trip_km: Option<f64>,
    speed_kmh: Option<SpeedProperty>,
}

/// A misspelt amount must not be a free ride: others than these are refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TariffProperties {
    base: i64,
    per_km: i64,
    per_minute: i64,
    minimum: i64,
    cancellation: Option<i64>,
    wait_per_minute: Option<i64>,
    platform_fee_bp: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpeedProperty {
    Always(f64),
    ByHour(Vec<f64>),
}

/// Names a content.
pub(super) fn version(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn markets(text: &str, general: &Tariffs) -> Result<Vec<Market>, String> {
    let collection: Collection =
        serde_json::from_str(text).map_err(|error| format!("is no GeoJSON FeatureCollection: {error}"))?;
    if collection.r#type != "FeatureCollection" {
        return Err(format!("is a `{}`: a FeatureCollection is needed", collection.r#type));
    }
    if collection.features.is_empty() || collection.features.len() > MARKETS_MAX {
        return Err(format!("has {} features: 1 to {MARKETS_MAX} are needed", collection.features.len()));
    }
    let mut ids = BTreeSet::new();
    let mut markets = Vec::new();
    for (n, feature) in collection.features.into_iter().enumerate() {
        let id = feature.pointer("/properties/market_id").and_then(Value::as_str).map(str::to_owned);
        let named = |why: String| match &id {
            Some(id) => format!("feature {} (`{id}`) {why}", n + 1),
            None => format!("feature {} {why}", n + 1),
        };
        let feature: Feature = serde_json::from_value(feature).map_err(|error| named(format!("is wrong: {error}")))?;
        let market = market(feature, general).map_err(named)?;
        if !ids.insert(market.market_id.clone()) {
            return Err(named("has the market_id of an earlier one".to_owned()));
        }
        markets.push(market);
    }
    Ok(markets)
}

fn market(Feature { geometry, properties }: Feature, general: &Tariffs) -> Result<Market, String> {
    let Properties { market_id, name, currency, time_zone, driver_approval, fares, .. } = properties;
    let is_id = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if market_id.is_empty() || market_id.len() > 64 || !market_id.chars().all(is_id) {
        return Err("needs a market_id of 1 to 64 letters, digits, hyphens or underscores".to_owned());
    }
    let driver_approval = match driver_approval.as_deref() {
        None => None,
        Some("auto") => Some(Approval::Auto),
        Some("manual") => Some(Approval::Manual),
        Some(other) => return Err(format!("has driver_approval `{other}`: auto or manual is needed")),
    };
    let (tariffs, offered) = tariffs(fares, currency, general)?;
    let within = |name: &str, value: Option<f64>, least: f64, most: f64| match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(format!("has {name} {value}: {least} to {most} is needed"))
        }
        value => Ok(value),
    };
    within("offer_ttl_s", properties.offer_ttl_s.map(f64::from), 1.0, 3_600.0)?;
    within("request_ttl_s", properties.request_ttl_s.map(f64::from), 1.0, 86_400.0)?;
    Ok(Market {
        name: name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| market_id.clone()),
        market_id,
        time_zone: time_zone.parse().map_err(|_| {
            format!("has time_zone `{time_zone}`: a name of the IANA database is needed, as in Europe/Berlin")
        })?,
        driver_approval,
        offer_ttl_s: properties.offer_ttl_s,
        request_ttl_s: properties.request_ttl_s,
        radius_m: within("radius_m", properties.radius_m, 1.0, 100_000.0)?,
        radius_max_m: within("radius_max_m", properties.radius_max_m, properties.radius_m.unwrap_or(1.0), 100_000.0)?,
        max_trip_km: Some(within("max_trip_km", properties.max_trip_km, 0.1, 21_000.0)?.unwrap_or(MAX_TRIP_KM)),
        tariffs,
        offered,
        speed: speed(properties.speed_kmh)?,
        area: Some(area(geometry)?),
    })
}

/// The tariffs, and which types of vehicle have one.
fn tariffs(
    fares: BTreeMap<String, TariffProperties>,
    currency: Currency,
    general: &Tariffs,
) -> Result<(Tariffs, [bool; 3]), String> {
    let (mut tariffs, mut offered) = (*general, [false; 3]);
    for (vehicle, fare) in fares {
        let vehicle_type: VehicleType = vehicle.parse().map_err(|why| format!("has fares of `{vehicle}`: {why}"))?;
        let tariff = Tariff {
            currency,
            base: fare.base,
            per_km: fare.per_km,
            per_minute: fare.per_minute,
            wait_per_minute: fare.wait_per_minute.unwrap_or(fare.per_minute),
            minimum: fare.minimum,
            platform_fee_bp: fare.platform_fee_bp.unwrap_or(2_000),
            cancellation: fare.cancellation.unwrap_or(0),
        };
        let Tariff { base, per_km, per_minute, wait_per_minute, minimum, cancellation, .. } = tariff;
        let amounts = [base, per_km, per_minute, wait_per_minute, minimum, cancellation];
        if amounts.iter().any(|amount| !(0..=AMOUNT_MAX).contains(amount)) {
            return Err(format!("has an amount in fares.{vehicle} that is not from 0 to {AMOUNT_MAX} minor units"));
        }
        if !(0..=10_000).contains(&tariff.platform_fee_bp) {
            return Err(format!("has fares.{vehicle}.platform_fee_bp {}: 0 to 10000", tariff.platform_fee_bp));
        }
        *tariffs.of_mut(vehicle_type) = tariff;
        offered[vehicle_type as usize] = true;
    }
    if offered == [false; 3] {
        return Err("has no fares: a tariff of car, motorcycle or van is needed".to_owned());
    }
    Ok((tariffs, offered))
}

fn speed(property: Option<SpeedProperty>) -> Result<Speed, String> {
    let mps = |kmh: f64| match (1.0..=200.0).contains(&kmh) {
        true => Ok(kmh / 3.6),
        false => Err(format!("has speed_kmh {kmh}: 1 to 200 is needed")),
    };
    Ok(match property {
        None => Speed::Always(crate::ESTIMATED_MPS),
        Some(SpeedProperty::Always(kmh)) => Speed::Always(mps(kmh)?),
        Some(SpeedProperty::ByHour(hours)) => {
            let hours: [f64; 24] = hours
                .try_into()
                .map_err(|hours: Vec<f64>| format!("has speed_kmh for {} hours: 24 are needed", hours.len()))?;
            let mut speeds = [0.0; 24];
            for (speed, kmh) in speeds.iter_mut().zip(hours) {
                *speed = mps(kmh)?;
            }
            Speed::ByHour(Box::new(speeds))
        }
    })
}

fn area(geometry: Geometry) -> Result<Area, String> {
    let polygons = match geometry {
        Geometry::Polygon(rings) => vec![rings],
        Geometry::MultiPolygon(polygons) => polygons,
    };
    let mut area = Vec::with_capacity(polygons.len());
    for rings in polygons {
        let mut polygon = Vec::with_capacity(rings.len());
        for ring in rings {
            let corner = |corner: Corner| match corner.0[..] {
                [lng, lat, ..] => Ok([lng, lat]),
                _ => Err("has a corner without longitude and latitude".to_owned()),
            };
            polygon.push(ring.into_iter().map(corner).collect::<Result<Vec<_>, _>>()?);
        }
        area.push(polygon);
    }
    Area::new(&area)
}
