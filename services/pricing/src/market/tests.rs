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

/// As people write them. Of the two readings of a ring whose longitudes jump, the one that goes counterclockwise counts.
#[test]
fn areas_are_read_as_they_are_written() {
    let clockwise = |west: f64, south: f64, east: f64, north: f64| {
        json!([[west, south], [west, north], [east, north], [east, south], [west, south]])
    };
    let world = || square(-180.0, -90.0, 180.0, 90.0);
    let polar = json!([[-180, 70], [-60, 70], [60, 70], [180, 70], [180, 90], [-180, 90], [-180, 70]]);
    let pacific = || square(170.0, -10.0, 190.0, 10.0);
    let hole = |west: f64, east: f64| clockwise(west, -1.0, east, 1.0);
    let [in_fiji, in_atlantic] = [(-5.0, -179.0), (0.0, -20.0)];
    for (rings, inside, outside) in [
        // Beyond 180°, on either side and in either direction, and with a hole on the other side.
        (
            json!([pacific()]),
            vec![in_fiji, (0.0, 170.0), (0.0, 180.0), (0.0, -180.0), (0.0, -170.0)],
            vec![in_atlantic, (0.0, -169.9)],
        ),
        (json!([square(-190.0, -10.0, -170.0, 10.0)]), vec![in_fiji, (0.0, 170.0)], vec![in_atlantic]),
        (json!([clockwise(170.0, -10.0, 190.0, 10.0)]), vec![in_fiji], vec![in_atlantic]),
        (json!([pacific(), hole(-175.0, -174.0)]), vec![in_fiji], vec![(0.0, -174.5), in_atlantic]),
        (json!([square(0.0, -10.0, 360.0, 10.0)]), vec![in_fiji, in_atlantic, (0.0, 0.0)], vec![(11.0, 0.0)]),
        // Jumps.
        (json!([square(170.0, -10.0, -170.0, 10.0)]), vec![in_fiji, (0.0, 170.0)], vec![in_atlantic, (0.0, -169.9)]),
        (
            json!([square(170.0, -10.0, -170.0, 10.0), hole(179.0, -179.0)]),
            vec![(0.0, 178.0)],
            vec![(0.0, 180.0), in_atlantic],
        ),
        // Around the earth.
        (json!([square(-170.0, -10.0, 170.0, 10.0)]), vec![in_atlantic, (0.0, -170.0)], vec![in_fiji, (0.0, 171.0)]),
        (json!([square(-100.0, -10.0, 100.0, 10.0)]), vec![in_atlantic], vec![in_fiji]),
        (
            json!([square(-170.0, -10.0, 170.0, 10.0), hole(100.0, 110.0)]),
            vec![in_atlantic],
            vec![(0.0, 105.0), in_fiji],
        ),
        (
            json!([square(-170.0, -10.0, 170.0, 10.0), hole(-120.0, 100.0)]),
            vec![(0.0, 105.0)],
            vec![in_atlantic, in_fiji],
        ),
        (json!([world()]), vec![in_atlantic, in_fiji, (90.0, 0.0), (0.0, 180.0)], vec![]),
        (json!([clockwise(-180.0, -90.0, 180.0, 90.0)]), vec![in_atlantic, in_fiji], vec![]),
        (json!([polar]), vec![(80.0, 180.0), (80.0, 0.0), (70.0, -100.0)], vec![(69.0, 0.0)]),
    ] {
        let markets = parse(&[feature("Polygon", rings.clone(), properties("a", "USD"))]).unwrap();
        for (places, is_in) in [(inside, true), (outside, false)] {
            for (lat, lng) in places {
                assert_eq!(id_at(&markets, lat, lng).is_some(), is_in, "{lat} {lng} in {rings}");
            }
        }
        let text = serde_json::to_string(&markets).unwrap();
        assert_eq!(serde_json::from_str::<Markets>(&text).unwrap(), markets, "recorded rules");
    }
    // Cut at the antimeridian.
    let cut = json!([[square(170.0, -10.0, 180.0, 10.0)], [square(-180.0, -10.0, -170.0, 10.0)]]);
    let markets = parse(&[feature("MultiPolygon", cut, properties("a", "USD"))]).unwrap();
    assert!(id_at(&markets, -5.0, -179.0).is_some() && id_at(&markets, 0.0, -20.0).is_none());
}

#[test]
fn what_is_probably_not_meant_so_is_warned_of() {
    let mut of_a = properties("a", "USD");
    for (name, value) in [
        ("radius", json!(3_000)),
        ("Offer-TTL-s", json!(20)),
        ("max_trip", json!(1)),
        ("timezone", json!("x")),
        ("speed_kmh_", json!(1)),
        ("platform_fee_bp", json!(1)),
        ("request_tll_s", json!(1)),
        // Plainly of others.
        ("stroke", json!("#555")),
        ("fill-opacity", json!(0.5)),
        ("admin_level", json!(4)),
        ("osm_id", json!(4)),
        ("id", json!(4)),
        ("state", json!("NY")),
        ("population", json!(4)),
    ] {
        of_a[name] = value;
    }
    let file = json!({"type": "FeatureCollection", "features": [
        feature("Polygon", json!([square(-170.0, 0.0, 170.0, 1.0)]), of_a),
        feature("Polygon", json!([square(0.0, 0.0, 1.0, 1.0)]), properties("b", "USD")),
    ]});
    let text = format!("\u{feff}{file}");
    let markets = Markets::parse(&text, &Tariffs::default()).unwrap();
    let warnings = markets.warnings(&text);
    let found: Vec<&str> = warnings.iter().filter_map(|w| w.split(": is it ").nth(1)).collect();
    let mut expected =
        ["radius_m?", "offer_ttl_s?", "max_trip_km?", "time_zone?", "speed_kmh?", "request_ttl_s?"].map(String::from);
    expected.sort();
    let mut found: Vec<String> = found.into_iter().map(String::from).collect();
    found.sort();
    assert_eq!(found, expected, "{warnings:#?}");
    assert_eq!(warnings.len(), 7);
    assert!(warnings.last().unwrap().contains("a polygon of 340° of longitude"), "{warnings:#?}");
}

#[test]
fn whole_numbers_may_be_written_with_a_point() {
    let mut of_a = properties("a", "USD");
    of_a["offer_ttl_s"] = json!(15.0);
    of_a["request_ttl_s"] = json!(3e2);
    of_a["fares"]["car"]["base"] = json!(390.0);
    of_a["radius_m"] = json!(null);
    let markets = parse(&[feature("Polygon", json!([square(0.0, 0.0, 1.0, 1.0)]), of_a)]).unwrap();
    let market = markets.get("a").unwrap();
    let found = (market.offer_ttl_s, market.request_ttl_s, market.tariff(VehicleType::Car).base, market.radius_m);
    assert_eq!(found, (Some(15), Some(300), 390, None));
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
    let wide = json!([square(-300.0, 0.0, 100.0, 1.0)]);
    let far = json!([square(300.0, 0.0, 361.0, 1.0)]);
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
        (changed("speed_kmh", json!("30")), "has speed_kmh \"30\": a number of km/h from 1 to 200 is needed"),
        (changed("speed_kmh", json!({"8": 30})), "or a list of 24 of them"),
        (changed("speed_kmh", json!([30, "31"])), "\"31\""),
        (changed("currency", json!("BTC")), "active code of ISO 4217"),
        (changed("currency", json!("EUT")), "active code of ISO 4217"),
        (changed("currency", json!(null)), "needs the property currency"),
        (changed("offer_ttl_s", json!(15.5)), "15.5 is no whole number"),
        (changed("offer_ttl_s", json!("15")), "a wrong offer_ttl_s"),
        (changed("radius_m", json!("far")), "a wrong radius_m"),
        (changed("fares.car.base", json!(1.5)), "1.5 is no whole number"),
        (changed("market_id", json!("new york")), "market_id"),
        (feature("Polygon", unclosed, properties("a", "USD")), "not closed"),
        (feature("Polygon", json!([square(0.0, 0.0, 1.0, 91.0)]), properties("a", "USD")), "degrees"),
        (feature("Polygon", far, properties("a", "USD")), "[361, 0]"),
        (feature("Polygon", wide, properties("a", "USD")), "more than 360°"),
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
