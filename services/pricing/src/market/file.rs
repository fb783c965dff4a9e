//! The text of MARKETS_FILE: a GeoJSON FeatureCollection (RFC 7946), one market a feature. Every mistake is named with its feature.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use serde::de::{self, DeserializeOwned};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};
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
    properties: Map<String, Value>,
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

/// The properties of a market. Others are ignored, as GeoJSON has it, and [`warnings`] names those that look like one of these.
const KNOWN: [&str; 12] = [
    "market_id",
    "name",
    "currency",
    "time_zone",
    "driver_approval",
    "fares",
    "offer_ttl_s",
    "request_ttl_s",
    "radius_m",
    "radius_max_m",
    "max_trip_km",
    "speed_kmh",
];

/// A whole number, also one that is written as 15.0.
struct Whole(i64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = Number::deserialize(from)?;
        // What is larger is no whole number any more, and no amount.
        let is_whole = |value: &f64| value.fract() == 0.0 && value.abs() < 9e15;
        let whole = number.as_i64().or_else(|| number.as_f64().filter(is_whole).map(|value| value as i64));
        whole.map(Self).ok_or_else(|| de::Error::custom(format!("{number} is no whole number")))
    }
}

/// A misspelt amount must not be a free ride: others than these are refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TariffProperties {
    base: Whole,
    per_km: Whole,
    per_minute: Whole,
    minimum: Whole,
    cancellation: Option<Whole>,
    wait_per_minute: Option<Whole>,
    platform_fee_bp: Option<Whole>,
}

/// Names a content.
pub(super) fn version(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Without the byte order mark that some editors put in front.
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

pub(super) fn markets(text: &str, general: &Tariffs) -> Result<Vec<Market>, String> {
    let collection: Collection = serde_json::from_str(without_mark(text))
        .map_err(|error| format!("is no GeoJSON FeatureCollection: {error}"))?;
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
    let mut properties = PropertyReader(properties);
    let market_id: String = properties.required("market_id")?;
    let currency = currency(&properties.required::<String>("currency")?)?;
    let time_zone: String = properties.required("time_zone")?;
    let driver_approval: Option<String> = properties.take("driver_approval")?;
    let name: Option<String> = properties.take("name")?;
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
    let (tariffs, offered) = tariffs(properties.required("fares")?, currency, general)?;
    let offer_ttl_s = properties.seconds("offer_ttl_s", 3_600)?;
    let request_ttl_s = properties.seconds("request_ttl_s", 86_400)?;
    let radius_m = properties.within("radius_m", 1.0, 100_000.0)?;
    Ok(Market {
        name: name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| market_id.clone()),
        market_id,
        time_zone: time_zone.parse().map_err(|_| {
            format!("has time_zone `{time_zone}`: a name of the IANA database is needed, as in Europe/Berlin")
        })?,
        driver_approval,
        offer_ttl_s,
        request_ttl_s,
        radius_m,
        radius_max_m: properties.within("radius_max_m", radius_m.unwrap_or(1.0), 100_000.0)?,
        max_trip_km: Some(properties.within("max_trip_km", 0.1, 21_000.0)?.unwrap_or(MAX_TRIP_KM)),
        tariffs,
        offered,
        speed: speed(properties.take("speed_kmh")?)?,
        area: Some(area(geometry)?),
    })
}

/// Reads properties, each once; `null` is none.
struct PropertyReader(Map<String, Value>);

impl PropertyReader {
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, String> {
        let value = self.0.remove(name).filter(|value| !value.is_null());
        value.map(serde_json::from_value).transpose().map_err(|error| format!("has a wrong {name}: {error}"))
    }

    fn required<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, String> {
        self.take(name)?.ok_or_else(|| format!("needs the property {name}"))
    }

    fn within(&mut self, name: &str, least: f64, most: f64) -> Result<Option<f64>, String> {
        let value = self.take::<f64>(name)?;
        match value.filter(|value| !(least..=most).contains(value)) {
            Some(value) => Err(format!("has {name} {value}: {least} to {most} is needed")),
            None => Ok(value),
        }
    }

    fn seconds(&mut self, name: &str, most: u32) -> Result<Option<u32>, String> {
        let Some(Whole(value)) = self.take(name)? else { return Ok(None) };
        let seconds = u32::try_from(value).ok().filter(|seconds| (1..=most).contains(seconds));
        seconds.map(Some).ok_or_else(|| format!("has {name} {value}: 1 to {most} is needed"))
    }
}

/// One that people pay with: three letters alone may be a slip, and every fare would be in it.
fn currency(code: &str) -> Result<Currency, String> {
    let currency: Currency = code.parse().map_err(|why| format!("has a wrong currency: {why}"))?;
    let is_active = currency.is_active();
    is_active
        .then_some(currency)
        .ok_or_else(|| format!("has currency `{code}`: an active code of ISO 4217 is needed, as EUR"))
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
        let or = |value: Option<Whole>, other: i64| value.map_or(other, |value| value.0);
        let tariff = Tariff {
            currency,
            base: fare.base.0,
            per_km: fare.per_km.0,
            per_minute: fare.per_minute.0,
            wait_per_minute: or(fare.wait_per_minute, fare.per_minute.0),
            minimum: fare.minimum.0,
            platform_fee_bp: or(fare.platform_fee_bp, 2_000),
            cancellation: or(fare.cancellation, 0),
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

/// A number, or one for each hour of the day.
fn speed(property: Option<Value>) -> Result<Speed, String> {
    let needed = "a number of km/h from 1 to 200 is needed, or a list of 24 of them by hour of the day";
    let mps = |value: &Value| match value.as_f64().filter(|kmh| (1.0..=200.0).contains(kmh)) {
        Some(kmh) => Ok(kmh / 3.6),
        None => Err(format!("has speed_kmh {value}: {needed}")),
    };
    match property {
        None => Ok(Speed::Always(crate::ESTIMATED_MPS)),
        Some(Value::Array(hours)) => {
            let speeds = hours.iter().map(mps).collect::<Result<Vec<f64>, _>>()?;
            let speeds: Result<Box<[f64; 24]>, _> = speeds.into_boxed_slice().try_into();
            speeds.map(Speed::ByHour).map_err(|_| format!("has speed_kmh for {} hours: 24 are needed", hours.len()))
        }
        Some(value) => Ok(Speed::Always(mps(&value)?)),
    }
}

/// Properties that mean nothing here and look like one that does, and polygons that go most of the way around the earth: a sentence each. Of a
/// file without mistakes.
pub(super) fn warnings(text: &str, markets: &[Market]) -> Vec<String> {
    let Ok(collection) = serde_json::from_str::<Collection>(without_mark(text)) else { return Vec::new() };
    let mut warnings = Vec::new();
    for (n, (feature, market)) in collection.features.iter().zip(markets).enumerate() {
        let whose = format!("feature {} (`{}`)", n + 1, market.market_id);
        let properties = feature.get("properties").and_then(Value::as_object);
        for name in properties.into_iter().flat_map(Map::keys) {
            if let Some(near) = nearest(name) {
                warnings.push(format!("{whose} has the property `{name}`, which means nothing here: is it {near}?"));
            }
        }
        let width = market.area.as_ref().map_or(0.0, Area::widest);
        if width > 180.0 && width < 360.0 {
            warnings.push(format!(
                "{whose} has a polygon of {width}° of longitude: if one across the antimeridian is meant, write longitudes beyond 180, or its outer \
                 ring counterclockwise"
            ));
        }
    }
    warnings
}

/// The known property that a foreign name may be meant for; `None` for one that is known, or near to none.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    if KNOWN.contains(&name) {
        return None;
    }
    let plain = |name: &str| name.to_lowercase().replace(['-', '_', ' '], "");
    // Without the unit.
    let stem = |name: &str| name.rsplit_once('_').map_or(name, |(stem, _)| stem).to_lowercase();
    let distance = |known: &str| {
        if plain(name) == plain(known) || stem(name) == stem(known) || name.to_lowercase() == stem(known) {
            return 0;
        }
        edits(&plain(name), &plain(known))
    };
    let slips = if name.len() < 7 { 1 } else { 2 };
    KNOWN
        .into_iter()
        .map(|known| (distance(known), known))
        .min()
        .filter(|(edits, _)| *edits <= slips)
        .map(|near| near.1)
}

/// Letters to put in, leave out or change, or neighbours to swap, so that one is the other.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let changed = rows[i][j] + usize::from(from != to);
            let swapped = i > 0 && j > 0 && a[i - 1] == *to && *from == b[j - 1];
            let swapped = if swapped { rows[i - 1][j - 1] + 1 } else { usize::MAX };
            row.push(changed.min(rows[i][j + 1] + 1).min(row[j] + 1).min(swapped));
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
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
