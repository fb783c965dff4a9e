//! The markets, as MARKETS_FILE has them, for the map: a GeoJSON FeatureCollection of their areas.

use axum::extract::State;
use platform::problem::Json;
use pricing::market::Market;
use serde_json::{Value, json};

use super::api::Api;
use super::caller::Viewer;

/// As this process has read them: after a change of the file, others may have another version for a moment.
pub(super) async fn markets(State(api): State<Api>, _: Viewer) -> Json<Value> {
    let markets = api.markets.get();
    Json(json!({
        "type": "FeatureCollection", "version": markets.version,
        "features": markets.iter().map(feature).collect::<Vec<_>>(),
    }))
}

/// The whole world has no geometry.
fn feature(market: &Market) -> Value {
    let geometry = market.polygons().map(|polygons| json!({"type": "MultiPolygon", "coordinates": polygons}));
    json!({
        "type": "Feature", "geometry": geometry,
        "properties": {
            "market_id": market.market_id, "name": market.name, "time_zone": market.time_zone.name(),
            "currency": market.currency().as_str(), "driver_approval": market.needs_review().then_some("manual"),
        },
    })
}
