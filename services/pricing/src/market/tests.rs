use serde_json::{Value, json};
use streams::Currency;

use super::*;
use crate::Tariff;

fn square(west: f64, south: f64, east: f64, north: f64) -> Value {
    json!([[west, south], [east, south], [east, north], [west, north], [west, south]])
}

fn properties(id: &str, currency: &str) -> Value {
    json!({
        "market_id": id, "name": id.to_uppercase(), "currency": currency, "time_zone": "America/New_York",
        "fares": {"car": {"base": 100, "per_km": 50, "per_minute": 10, "minimum": 300}},
    })
}

fn feature(geometry: &str, coordinates: Value, properties: Value) -> Value {
    json!({"type": "Feature", "geometry": {"type": geometry, "coordinates": coordinates}, "properties": properties})
}

fn parse(features: &[Value]) -> Result<Markets, String> {
    Markets::parse(&json!({"type": "FeatureCollection", "features": features}).to_string(), &Tariffs::default())
}

fn place(lat: f64, lng: f64) -> Position {
    Position { lat, lng }
}

fn id_at(markets: &Markets, lat: f64, lng: f64) -> Option<&str> {
    markets.at(&place(lat, lng)).map(|market| market.market_id.as_str())
}

#[test]
fn a_place_is_in_the_first_market_that_contains_it_and_not_in_a_hole() {
    let with_hole = json!([square(0.0, 0.0, 10.0, 10.0), square(4.0, 4.0, 6.0, 6.0)]);
    let two = json!([[square(20.0, 0.0, 21.0, 1.0)], [square(5.0, 5.0, 8.0, 8.0)]]);
    let markets = parse(&[
        feature("Polygon", with_hole, properties("a", "USD")),
        feature("MultiPolygon", two, properties("b", "EUR")),
    ])
    .unwrap();
    for (lat, lng, id) in [
        (1.0, 1.0, Some("a")),
        (0.0, 5.0, Some("a")),
        (7.0, 7.0, Some("a")),
        (4.5, 4.5, None),
        (5.5, 5.5, Some("b")),
        (0.5, 20.5, Some("b")),
        (0.5, 19.9, None),
        (-1.0, 1.0, None),
    ] {
        assert_eq!(id_at(&markets, lat, lng), id, "{lat} {lng}");
    }
}

#[test]
fn a_market_may_lie_across_the_antimeridian() {
    let ring = json!([[177.0, -19.0], [-178.0, -19.0], [-178.0, -16.0], [177.0, -16.0], [177.0, -19.0]]);
    let hole = json!([[-179.5, -18.0], [-179.0, -18.0], [-179.0, -17.0], [-179.5, -17.0], [-179.5, -18.0]]);
    let fiji = parse(&[feature("Polygon", json!([ring, hole]), properties("fiji", "FJD"))]).unwrap();
    for (lat, lng, is_in) in [
        (-17.0, 178.0, true),
        (-17.0, 180.0, true),
        (-17.0, -180.0, true),
        (-17.5, -178.5, true),
        (-17.5, -179.2, false),
        (-17.0, -177.0, false),
        (-17.0, 0.0, false),
    ] {
        assert_eq!(id_at(&fiji, lat, lng).is_some(), is_in, "{lat} {lng}");
    }
}

#[test]
fn a_trip_is_served_by_the_market_of_its_pickup_and_by_its_rules() {
    let mut of_b = properties("b", "JPY");
    of_b["max_trip_km"] = json!(10);
    let markets = parse(&[
        feature("Polygon", json!([square(0.0, 0.0, 1.0, 1.0)]), properties("a", "USD")),
        feature("Polygon", json!([square(2.0, 0.0, 3.0, 1.0)]), of_b),
    ])
    .unwrap();
    let serving = |from, to, vehicle| {
        markets.serving(&from, &to, vehicle).map(|m| m.market_id.as_str()).map_err(|e| (e.field(), e.to_string()))
    };
    assert_eq!(serving(place(0.5, 0.5), place(0.5, 1.5), VehicleType::Car), Ok("a"), "the dropoff may lie outside");
    assert_eq!(serving(place(0.5, 1.5), place(0.5, 0.5), VehicleType::Car).unwrap_err().0, "pickup");
    let (field, message) = serving(place(0.5, 0.5), place(3.5, 0.5), VehicleType::Car).unwrap_err();
    assert_eq!((field, message.as_str()), ("dropoff", "is 334 km from the pickup: the longest trip in A is 150 km"));
    assert_eq!(serving(place(0.5, 2.1), place(0.5, 2.2), VehicleType::Car).unwrap_err().0, "dropoff");
    assert_eq!(serving(place(0.5, 0.5), place(0.5, 0.6), VehicleType::Van).unwrap_err().0, "vehicle_type");
    let market = markets.of(Some("b"), &place(0.5, 2.5)).unwrap();
    let terms = markets.terms(market, VehicleType::Car, DateTime::UNIX_EPOCH);
    let expected = ("b", "JPY", markets.version.as_str(), 10, 2_000, 0);
    let Tariff { wait_per_minute, platform_fee_bp, cancellation, .. } = crate::of_terms(&terms).0;
    let found = (
        market.market_id.as_str(),
        terms.currency.as_str(),
        terms.version.as_str(),
        wait_per_minute,
        platform_fee_bp,
        cancellation,
    );
    assert_eq!(found, expected);
    assert_eq!(market.price(VehicleType::Car, 10_000.0, 60.0).fare.total.currency.as_str(), "JPY");
}

#[test]
fn an_estimate_takes_the_speed_of_the_hour_where_the_market_is() {
    let mut by_hour = properties("a", "USD");
    by_hour["speed_kmh"] = (0..24).map(|hour| if hour == 8 { 18.0 } else { 36.0 }).collect();
    let markets = parse(&[feature("Polygon", json!([square(0.0, 0.0, 1.0, 1.0)]), by_hour)]).unwrap();
    let market = markets.get("a").unwrap();
    let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let (from, to) = (place(0.5, 0.5), place(0.5, 0.6));
    let (distance_m, rush_s) = market.estimate(&from, &to, at("2026-01-15T13:30:00Z"));
    let (same_m, quick_s) = market.estimate(&from, &to, at("2026-01-15T14:00:00Z"));
    assert_eq!((distance_m, same_m), (crate::estimate(&from, &to).0, distance_m));
    assert!((rush_s - distance_m / 5.0).abs() < 0.01 && (quick_s - distance_m / 10.0).abs() < 0.01);
    // Summer time: 8 o'clock is an hour earlier in UTC.
    assert_eq!(market.estimate(&from, &to, at("2026-07-15T12:30:00Z")).1, rush_s);
}

#[test]
fn without_a_file_the_world_is_one_market_at_the_general_tariffs() {
    let world = Markets::world(Tariffs::default());
    let market = world.of(Some(WORLD), &place(-89.0, 170.0)).unwrap();
    let terms = world.terms(market, VehicleType::Van, DateTime::UNIX_EPOCH);
    assert_eq!((market.market_id.as_str(), terms.currency, terms.base), (WORLD, Currency::USD, 400));
    assert!(world.serving(&place(0.0, 0.0), &place(80.0, 100.0), VehicleType::Car).is_ok(), "a trip of any length");
    let (from, to) = (place(1.0, 1.0), place(1.1, 1.1));
    assert_eq!(market.estimate(&from, &to, DateTime::UNIX_EPOCH), crate::estimate(&from, &to));
    let dearer = Tariffs { car: Tariff { base: 1, ..Tariffs::default().car }, ..Tariffs::default() };
    assert_ne!(Markets::world(dearer).version, world.version);
}

#[test]
fn mistakes_are_named() {
    let ring = || json!([square(0.0, 0.0, 1.0, 1.0)]);
    let changed = |field: &str, value: Value| {
        let mut properties = properties("a", "USD");
        *properties.pointer_mut(&format!("/{}", field.replace('.', "/"))).unwrap_or(&mut json!(null)) = value.clone();
        if !field.contains('.') {
            properties[field] = value;
        }
        feature("Polygon", ring(), properties)
    };
    let unclosed = json!([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]]);
    let wide = json!([square(-100.0, 0.0, 100.0, 1.0)]);
    let flat = json!([[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]]]);
    let pole = json!([[[-180.0, 70.0], [-60.0, 70.0], [60.0, 70.0], [179.0, 70.0], [-180.0, 70.0]]]);
    for (feature, words) in [
        (changed("currency", json!("dollar")), "three capital letters"),
        (changed("time_zone", json!("New York")), "IANA"),
        (changed("driver_approval", json!("maybe")), "auto or manual"),
        (changed("fares", json!({})), "no fares"),
        (changed("fares", json!({"tram": {"base": 1, "per_km": 1, "per_minute": 1, "minimum": 1}})), "`tram`"),
        (changed("fares.car", json!({"base": 1, "per_mile": 1})), "per_mile"),
        (changed("fares.car.base", json!(-1)), "from 0 to"),
        (
            changed(
                "fares.car",
                json!({"base": 1, "per_km": 1, "per_minute": 1, "minimum": 1, "platform_fee_bp": 10_001}),
            ),
            "0 to 10000",
        ),
        (changed("radius_m", json!(0)), "radius_m 0"),
        (changed("radius_max_m", json!(0)), "radius_max_m 0"),
        (changed("offer_ttl_s", json!(0)), "offer_ttl_s 0"),
        (changed("speed_kmh", json!([1, 2])), "24 are needed"),
        (changed("speed_kmh", json!(0)), "1 to 200"),
        (changed("market_id", json!("new york")), "market_id"),
        (feature("Polygon", unclosed, properties("a", "USD")), "not closed"),
        (feature("Polygon", json!([square(0.0, 0.0, 200.0, 1.0)]), properties("a", "USD")), "degrees"),
        (feature("Polygon", wide, properties("a", "USD")), "more than 180°"),
        (feature("Polygon", json!([square(-180.0, -90.0, 180.0, 90.0)]), properties("a", "USD")), "more than 180°"),
        (feature("Polygon", flat, properties("a", "USD")), "no area"),
        (feature("Polygon", pole, properties("a", "USD")), "pole"),
        (feature("Point", json!([1.0, 1.0]), properties("a", "USD")), "Point"),
    ] {
        let error = parse(std::slice::from_ref(&feature)).unwrap_err();
        assert!(error.starts_with("feature 1 ") && error.contains(words), "{words}: {error}");
    }
    let twice = feature("Polygon", ring(), properties("a", "USD"));
    assert!(parse(&[twice.clone(), twice]).unwrap_err().contains("earlier"));
    for (text, words) in [("{", "no GeoJSON"), (r#"{"type":"Feature","features":[1]}"#, "`Feature`")] {
        assert!(Markets::parse(text, &Tariffs::default()).unwrap_err().contains(words));
    }
    assert!(parse(&[]).unwrap_err().contains("0 features"));
}

#[test]
fn what_began_in_a_market_stays_in_it_wherever_the_borders_are() {
    let of = |west: f64, id: &str| {
        let ring = json!([square(west, 0.0, west + 1.0, 1.0)]);
        feature("Polygon", ring, properties(id, if id == "a" { "USD" } else { "EUR" }))
    };
    let current = Current::new(parse(&[of(0.0, "a"), of(2.0, "b")]).unwrap());
    let (in_b, in_a) = (place(0.5, 2.5), place(0.5, 0.5));
    let market_of = |id: Option<&str>, at: &Position| {
        current.get().of(id, at).map(|market| (market.market_id.clone(), market.currency().to_string()))
    };
    let b = Some(("b".to_owned(), "EUR".to_owned()));
    // Its borders have moved away, and another market's over the pickup.
    for moved in [of(4.0, "b"), of(2.0, "b")] {
        current.replace(parse(&[of(2.0, "a"), moved]).unwrap());
        assert_eq!(market_of(Some("b"), &in_b), b);
    }
    // It is no more, and remembered, also in later versions.
    current.replace(parse(&[of(0.0, "a"), of(2.0, "b")]).unwrap());
    for _ in 0..2 {
        current.replace(parse(&[of(0.0, "a")]).unwrap());
        assert_eq!(current.get().at(&in_b), None, "nobody asks for a ride there");
        for (id, at) in [(Some("b"), &in_b), (Some("b"), &in_a), (None, &in_b), (Some(WORLD), &in_b)] {
            assert_eq!(market_of(id, at), b, "{id:?}");
        }
    }
    // What nobody knows is of no market, and never of the first one.
    assert_eq!(market_of(Some("c"), &in_a), None);
    assert_eq!(market_of(None, &place(50.0, 50.0)), None);
    current.replace(parse(&[of(0.0, "a"), of(2.0, "b")]).unwrap());
    assert!(current.get().at(&in_b).is_some() && current.get().retired.is_empty());
}
