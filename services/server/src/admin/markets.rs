//! The markets, as MARKETS_FILE has them, for the map: a GeoJSON FeatureCollection of their areas.

use axum::extract::State;
use platform::problem::Json;
use pricing::market::{Approval, Market};
use streams::operators::shown::{MarketArea, MarketProperties, OperatorsMarket, OperatorsMarkets};

use super::api::Api;
use super::caller::Viewer;

/// As this process has read them: after a change of the file, others may have another version for a moment.
pub(super) async fn markets(State(api): State<Api>, _: Viewer) -> Json<OperatorsMarkets> {
    let markets = api.markets.get();
    Json(OperatorsMarkets {
        r#type: "FeatureCollection",
        version: markets.version.clone(),
        features: markets.iter().map(feature).collect(),
    })
}

/// The whole world has no geometry.
fn feature(market: &Market) -> OperatorsMarket {
    OperatorsMarket {
        r#type: "Feature",
        geometry: market.polygons().map(|coordinates| MarketArea { r#type: "MultiPolygon", coordinates }),
        properties: MarketProperties {
            market_id: market.market_id.clone(),
            name: market.name.clone(),
            time_zone: market.time_zone.name(),
            currency: market.currency(),
            driver_approval: market.driver_approval.map(Approval::as_str),
        },
    }
}
