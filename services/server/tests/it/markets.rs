//! MARKETS_FILE that changes while people search, are offered rides and accept them.

use serde_json::{Value, json};

use crate::harness::client::{Person, http};
use crate::harness::on_both_shapes;
use crate::harness::ride::{online, trip};
use crate::harness::running::{Running, Shape};

on_both_shapes!(a_new_file_changes_nothing_of_what_was_offered);

/// From this longitude on, ten degrees of it.
fn market(id: &str, currency: &str, west: f64, minimum: i64) -> Value {
    let (east, fares) = (west + 10.0, json!({"base": 0, "per_km": 0, "per_minute": 0, "minimum": minimum}));
    json!({
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[west, 40], [east, 40], [east, 41], [west, 41], [west, 40]]]},
        "properties": {"market_id": id, "currency": currency, "time_zone": "UTC", "fares": {"car": fares}},
    })
}

async fn a_new_file_changes_nothing_of_what_was_offered(shape: Shape) {
    let path = format!("{}/markets-{}.json", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    let write = |features: &[Value]| {
        let file = json!({"type": "FeatureCollection", "features": features});
        std::fs::write(&path, file.to_string()).unwrap();
    };
    let there = -75.0;
    let kuwait = market("kuwait", "KWD", 40.0, 1);
    write(&[kuwait.clone(), market("new-york", "USD", there, 700)]);
    let running = Running::start(shape, &["--markets-file", &path]).await;
    let mut driver = Person::driver(running.addr(), 1).await.connect(None).await;
    let passenger = Person::passenger(running.addr(), 2).await;
    let mut p = passenger.connect(None).await;
    online(&mut driver, 40.751).await;
    p.ack("finder.update", trip()).await;
    let found = driver.event("match.found").await["data"].clone();
    let offered = json!({"amount": 700, "currency": "USD"});
    assert_eq!((&found["market_id"], &found["fare_estimate"]), (&json!("new-york"), &offered));
    assert_eq!(found.get("terms"), None);
    // The market is elsewhere now, dearer, and its place is another one's.
    write(&[kuwait, market("new-york", "EUR", -20.0, 99_999), market("jersey", "JPY", there, 3)]);
    running.apps.iter().for_each(|app| app.reload(&running.settings));
    let path_of = "/v1/estimates?pickup=40.75,-73.98&dropoff=40.76,-73.97&vehicle_type=car";
    let (_, estimate) = http(running.addr(), "GET", path_of, None, None).await;
    assert_eq!(estimate["market_id"], "jersey", "{estimate}");
    let (_, state) = passenger.get("/v1/state").await;
    assert_eq!((&state["search"]["market_id"], &state["offer"]["market_id"]), (&json!("new-york"), &json!("new-york")));
    driver.ack("match.accept", json!({"match_id": found["match_id"]})).await;
    let ride = p.event("ride.pickup").await["data"].clone();
    let terms = &ride["terms"];
    let began = (&ride["market_id"], &terms["currency"], &terms["minimum"]);
    assert_eq!(began, (&json!("new-york"), &json!("USD"), &json!(700)), "{ride}");
    // Its search goes on in the same market, when the driver cancels.
    driver.ack("ride.cancel", json!({"ride_id": ride["ride_id"], "reason": "no"})).await;
    loop {
        let finder = p.event("user.finder").await["data"].clone();
        assert_eq!(finder["market_id"], "new-york");
        if finder.get("continues").is_some() {
            break;
        }
    }
    running.stop().await;
    std::fs::remove_file(&path).unwrap();
}
