//! The event stream of the console: the map every 2 s, what changed of its rides, the processes every 5 s. It is made by asking, as the
//! routes are, so that a client that loses it misses nothing.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use platform::api::{SchemaOf, Schemas};
use platform::limits::Refused;
use platform::problem::Query;
use platform::{Limit, Problem};
use serde::Serialize;
use serde_json::{Value, json};
use streams::operators::shown::{OperatorsMap, Pods, RideOnMapChanged};
use streams::operators::{MapQuery, Operator};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use super::api::Api;
use super::caller::{Viewer, bearer};
use super::live;
use super::query::MapParameters;

const MAP_INTERVAL: Duration = Duration::from_secs(2);
const PODS_INTERVAL: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Then the client connects again.
const LIFE: Duration = Duration::from_secs(3_600);
/// When one more may be opened is not known: others must close.
const RETRY_AFTER_US: i64 = 10_000_000;

pub(super) async fn stream(
    State(api): State<Api>,
    Viewer(operator): Viewer,
    headers: HeaderMap,
    Query(map): Query<MapParameters>,
) -> Result<Response, Problem> {
    let map = map.read()?;
    let Ok(permit) = api.streams.clone().try_acquire_owned() else {
        api.platform.limit_reached(Limit::AdminStreams);
        return Err(Refused::new(Limit::AdminStreams, RETRY_AFTER_US).into());
    };
    let token = bearer(&headers).unwrap_or_default().to_owned();
    let events = Events::new(api, operator, token, map, permit);
    let body = Body::from_stream(stream::unfold(events, async |mut events| {
        let next = events.next().await?;
        Some((Ok::<Bytes, Infallible>(next), events))
    }));
    let kind = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((kind, body).into_response())
}

/// Each event with what it says and the schema of its data.
pub(crate) fn events() -> [(&'static str, &'static str, SchemaOf); 3] {
    [
        ("live", "The map, every 2 s.", Schemas::written::<OperatorsMap>),
        (
            "ride",
            "A ride of the map that came, changed or left since the map before.",
            Schemas::written::<RideOnMapChanged>,
        ),
        ("health", "The processes, every 5 s.", Schemas::written::<Pods>),
    ]
}

struct Events {
    api: Api,
    operator: Operator,
    token: String,
    map: MapQuery,
    /// Made, and not sent yet: one map with what changed, at most.
    waiting: VecDeque<Bytes>,
    /// Of the last map, by ride; `None` before the first.
    rides: Option<BTreeMap<String, Value>>,
    next_map: Instant,
    next_pods: Instant,
    next_ping: Instant,
    ends_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Events {
    fn new(api: Api, operator: Operator, token: String, map: MapQuery, permit: OwnedSemaphorePermit) -> Self {
        let now = Instant::now();
        Self {
            api,
            operator,
            token,
            map,
            waiting: VecDeque::new(),
            rides: None,
            next_map: now,
            next_pods: now,
            next_ping: now + PING_INTERVAL,
            ends_at: now + LIFE,
            _permit: permit,
        }
    }

    /// What is sent next; `None` at the end. Nothing is made while the client has not taken what was.
    async fn next(&mut self) -> Option<Bytes> {
        let shutdown = self.api.platform.shutdown.clone();
        loop {
            if let Some(next) = self.waiting.pop_front() {
                return Some(next);
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                () = sleep_until(self.ends_at) => return None,
                () = sleep_until(self.next_map) => {
                    self.next_map = Instant::now() + MAP_INTERVAL;
                    // A file that was read again may not have the token any more.
                    self.api.operators.operator(&self.token)?;
                    let map = live::of(&self.api, &self.operator, self.map).await;
                    self.add_map(&map);
                }
                () = sleep_until(self.next_pods) => {
                    self.next_pods = Instant::now() + PODS_INTERVAL;
                    let pods = self.api.pods.view().await;
                    self.waiting.push_back(event("health", &pods));
                }
                () = sleep_until(self.next_ping) => {
                    self.next_ping = Instant::now() + PING_INTERVAL;
                    self.waiting.push_back(Bytes::from_static(b": ping\n\n"));
                }
            }
        }
    }

    fn add_map(&mut self, map: &Value) {
        self.waiting.push_back(event("live", map));
        // Without an answer of rides nothing is known to have changed.
        if map["unavailable"].as_array().is_some_and(|owners| owners.iter().any(|owner| owner == "rides")) {
            return;
        }
        let rides = map["rides"].as_array().into_iter().flatten();
        let now: BTreeMap<String, Value> =
            rides.filter_map(|ride| Some((ride["ride_id"].as_str()?.to_owned(), ride.clone()))).collect();
        let before = self.rides.replace(now.clone());
        let changes = before.map(|before| changes(&before, &now)).unwrap_or_default();
        self.waiting.extend(changes.iter().map(|change| event("ride", change)));
    }
}

fn event<T: Serialize>(name: &str, data: &T) -> Bytes {
    let data = serde_json::to_string(data).expect("a view has string keys and finite numbers");
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// What changed of the rides of the map; pure.
fn changes(before: &BTreeMap<String, Value>, now: &BTreeMap<String, Value>) -> Vec<Value> {
    let mut changes = Vec::new();
    for (id, ride) in now {
        let known = before.get(id);
        if known.is_some_and(|known| known["version"] == ride["version"]) {
            continue;
        }
        changes.push(json!({
            "ride_id": id, "status": ride["status"], "version": ride["version"],
            "previous_status": known.map(|known| known["status"].clone()),
            "driver_id": ride["driver_id"], "passenger_id": ride["passenger_id"], "updated_at": ride["updated_at"],
        }));
    }
    for (id, known) in before.iter().filter(|(id, _)| !now.contains_key(*id)) {
        changes.push(json!({
            "ride_id": id, "status": "ended", "version": null, "previous_status": known["status"],
            "driver_id": known["driver_id"], "passenger_id": known["passenger_id"], "updated_at": null,
        }));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_new_version_or_a_ride_that_came_or_went() {
        let rides = |rides: &[(&str, u32, &str)]| -> BTreeMap<String, Value> {
            let ride = |(id, version, status): &(&str, u32, &str)| {
                ((*id).to_owned(), json!({"ride_id": id, "version": version, "status": status}))
            };
            rides.iter().map(ride).collect()
        };
        let before = rides(&[("a", 1, "pickup"), ("b", 2, "started"), ("c", 1, "pickup")]);
        let now = rides(&[("a", 2, "started"), ("c", 1, "pickup"), ("d", 1, "pickup")]);
        let found = changes(&before, &now);
        let found = found.iter().map(|c| (&c["ride_id"], &c["previous_status"], &c["status"]));
        let found: Vec<String> = found.map(|(id, from, to)| format!("{id} {from} {to}")).collect();
        assert_eq!(found, [r#""a" "pickup" "started""#, r#""d" null "pickup""#, r#""b" "started" "ended""#]);
        assert!(changes(&now, &now).is_empty());
    }
}
