//! The map: where drivers are, who searches, which rides are live. Each list is bounded, and says when it is cut.

use axum::extract::State;
use platform::Problem;
use platform::api::Passed;
use platform::problem::Query;
use serde_json::{Value, json};
use streams::event::rfc3339;
use streams::operators::shown::{OperatorsMap, Owner};
use streams::operators::{LocationRequest, MapQuery, Operator, RidesRequest, UsersRequest};

use super::api::{Api, part};
use super::caller::Viewer;
use super::query::MapParameters;

pub(super) async fn live(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    Query(map): Query<MapParameters>,
) -> Result<Passed<OperatorsMap>, Problem> {
    Ok(Passed::new(of(&api, &operator, map.read()?).await))
}

/// The map of now.
pub(super) async fn of(api: &Api, operator: &Operator, map: MapQuery) -> Value {
    let (positions, searches, rides) = tokio::join!(
        api.ask_location(operator, LocationRequest::Positions { map }),
        api.ask_users(operator, UsersRequest::Searches { map }),
        api.ask_rides(operator, RidesRequest::Live { map }),
    );
    let mut unavailable = Vec::new();
    let mut list = |answer, owner| {
        let mut answer = part(answer, owner, &mut unavailable);
        let rows = answer["rows"].take();
        (if rows.is_array() { rows } else { json!([]) }, answer["truncated"] == true)
    };
    let (positions, searches, rides) =
        (list(positions, Owner::Location), list(searches, Owner::Users), list(rides, Owner::Rides));
    json!({
        "time": rfc3339::text(&api.platform.world.now()),
        "box": map.within.map(|within| [within.south, within.west, within.north, within.east]),
        "positions": positions.0, "searches": searches.0, "rides": rides.0,
        "truncated": {"positions": positions.1, "searches": searches.1, "rides": rides.1},
        "unavailable": unavailable,
    })
}
