//! Requests to OSRM and its responses (<https://project-osrm.org/docs/v5.24.0/api/>): the route service for one way, the table
//! service for several with one destination. Pure.

use std::fmt::Write;

use serde::Deserialize;

use crate::way::{Leg, Road, Way};

/// Of a leg that can be believed: a day, and half the earth.
const DURATION_MAX_S: f64 = 86_400.0;
const DISTANCE_MAX_M: f64 = 2.0e7;
/// Of the great circle, for a server that gives no distances.
const DETOUR: f64 = 1.3;

/// The URL that asks for the ways of a batch, which has one destination: the last coordinate.
pub(crate) fn url(base: &str, batch: &[Way]) -> String {
    let service = if batch.len() == 1 { "route" } else { "table" };
    let mut url = format!("{base}/{service}/v1/driving/");
    let to = batch.first().map(|way| way.to);
    for place in batch.iter().map(|way| way.from).chain(to) {
        let separator = if url.ends_with('/') { "" } else { ";" };
        // A tenth of a metre. Writing to a text cannot fail.
        let _ = write!(url, "{separator}{:.6},{:.6}", place.lng, place.lat);
    }
    if batch.len() == 1 {
        url.push_str("?overview=false");
        return url;
    }
    let sources: Vec<String> = (0..batch.len()).map(|n| n.to_string()).collect();
    let _ = write!(url, "?sources={}&destinations={}", sources.join(";"), batch.len());
    url.push_str("&annotations=duration,distance");
    url
}

#[derive(Deserialize)]
struct Response {
    code: String,
    message: Option<String>,
    durations: Option<Vec<Vec<Option<f64>>>>,
    distances: Option<Vec<Vec<Option<f64>>>>,
    routes: Option<Vec<Route>>,
}

#[derive(Deserialize)]
struct Route {
    distance: f64,
    duration: f64,
}

/// What a routing server says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    /// Of each way of the batch, in its order. A duration that is null is a way without a road.
    Roads(Vec<Road>),
    /// Nothing of these ways, for this reason; it may of others.
    Refused(String),
}

/// What a response says of `batch`.
///
/// # Errors
/// Why the response is none of a routing server that works, whatever it was asked.
pub(crate) fn read(body: &[u8], batch: &[Way]) -> Result<Answer, String> {
    let response: Response =
        serde_json::from_slice(body).map_err(|error| format!("the response cannot be parsed: {error}"))?;
    match response.code.as_str() {
        "Ok" if batch.len() == 1 => read_route(&response).map(Answer::Roads),
        "Ok" => read_table(&response, batch).map(Answer::Roads),
        "NoRoute" if batch.len() == 1 => Ok(Answer::Roads(vec![Road::None])),
        code => {
            let reason = format!("{code}: {}", response.message.unwrap_or_default());
            if WRONG_PATH.contains(&code) { Err(reason) } else { Ok(Answer::Refused(reason)) }
        }
    }
}

/// The codes by which OSRM says that it does not serve such a path.
const WRONG_PATH: [&str; 3] = ["InvalidUrl", "InvalidService", "InvalidVersion"];

/// Whether a response is one of a routing server that serves this path, whatever it says of the ways.
pub(crate) fn is_answer(body: &[u8]) -> bool {
    serde_json::from_slice::<Code>(body).is_ok_and(|response| !WRONG_PATH.contains(&&*response.code))
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

fn read_route(response: &Response) -> Result<Vec<Road>, String> {
    let route = response.routes.as_ref().and_then(|routes| routes.first()).ok_or("the response has no route")?;
    Ok(vec![leg(route.distance, route.duration)?])
}

fn read_table(response: &Response, batch: &[Way]) -> Result<Vec<Road>, String> {
    let durations = response.durations.as_ref().ok_or("the response has no durations")?;
    if durations.len() != batch.len() || durations.iter().any(|row| row.len() != 1) {
        return Err(format!("the response has {} rows of durations, not {}", durations.len(), batch.len()));
    }
    let distance_m = |n: usize| response.distances.as_ref()?.get(n)?.first().copied()?;
    let road = |(n, way): (usize, &Way)| match durations[n][0] {
        Some(duration_s) => leg(distance_m(n).unwrap_or_else(|| way.from.distance_m(&way.to) * DETOUR), duration_s),
        None => Ok(Road::None),
    };
    batch.iter().enumerate().map(road).collect()
}

fn leg(distance_m: f64, duration_s: f64) -> Result<Road, String> {
    let is_valid = (0.0..=DURATION_MAX_S).contains(&duration_s) && (0.0..=DISTANCE_MAX_M).contains(&distance_m);
    if !is_valid {
        return Err(format!("a way of {distance_m} m in {duration_s} s cannot be"));
    }
    // To a hundredth, as estimates are.
    let rounded = |value: f64| (value * 100.0).round() / 100.0;
    Ok(Road::Leg(Leg { distance_m: rounded(distance_m), duration_s: rounded(duration_s) }))
}

#[cfg(test)]
mod tests {
    use streams::Position;

    use super::*;

    fn batch() -> Vec<Way> {
        let to = Position { lat: 40.71, lng: -74.0 };
        [-74.01, -74.02].map(|lng| Way { from: Position { lat: 40.7, lng }, to }).to_vec()
    }

    #[test]
    fn a_table_has_many_sources_and_one_destination() {
        let url = url("http://127.0.0.1:5000", &batch());
        assert_eq!(
            url,
            "http://127.0.0.1:5000/table/v1/driving/-74.010000,40.700000;-74.020000,40.700000;-74.000000,40.710000\
             ?sources=0;1&destinations=2&annotations=duration,distance"
        );
        assert_eq!(
            super::url("http://127.0.0.1:5000", &batch()[..1]),
            "http://127.0.0.1:5000/route/v1/driving/-74.010000,40.700000;-74.000000,40.710000?overview=false"
        );
    }

    #[test]
    fn one_way_is_a_route() {
        let batch = &batch()[..1];
        let read = |text: &str| super::read(text.as_bytes(), batch);
        let route = r#"{"code":"Ok","routes":[{"distance":900.123,"duration":120.5,"legs":[]}],"waypoints":[]}"#;
        let roads = |road| Ok(Answer::Roads(vec![road]));
        assert_eq!(read(route), roads(Road::Leg(Leg { distance_m: 900.12, duration_s: 120.5 })));
        assert_eq!(read(r#"{"code":"NoRoute","message":"Impossible route"}"#), roads(Road::None));
        assert!(read(r#"{"code":"Ok","routes":[]}"#).unwrap_err().contains("no route"));
    }

    #[test]
    fn a_wrong_path_is_distinguished_from_an_unknown_way() {
        for body in [r#"{"code":"Ok","routes":[]}"#, r#"{"code":"NoSegment","message":"off the map"}"#] {
            assert!(is_answer(body.as_bytes()), "{body}");
        }
        for body in ["<html>404</html>", "", "{}", r#"{"code":404}"#, r#"{"code":"InvalidService","message":"no"}"#] {
            assert!(!is_answer(body.as_bytes()), "{body}");
        }
    }

    #[test]
    fn a_response_is_read_whole_or_refused() {
        let batch = batch();
        let read = |text: &str| match super::read(text.as_bytes(), &batch)? {
            Answer::Roads(roads) => Ok(roads),
            Answer::Refused(reason) => Err(format!("refused, {reason}")),
        };
        let leg = |distance_m, duration_s| Road::Leg(Leg { distance_m, duration_s });
        let both =
            r#"{"code":"Ok","durations":[[120.5],[null]],"distances":[[900.1],[null]],"sources":[],"destinations":[]}"#;
        assert_eq!(read(both).unwrap(), [leg(900.1, 120.5), Road::None]);
        let no_distances = read(r#"{"code":"Ok","durations":[[0],[1]]}"#).unwrap();
        assert!(matches!(no_distances[1], Road::Leg(leg) if leg.distance_m > 1_000.0 && leg.duration_s == 1.0));
        for (text, reason) in [
            (r#"{"code":"NoTable","message":"no"}"#, "refused, NoTable: no"),
            (r#"{"code":"InvalidUrl","message":"no"}"#, "InvalidUrl: no"),
            (r#"{"code":"Ok"}"#, "no durations"),
            (r#"{"code":"Ok","durations":[[1]]}"#, "1 rows"),
            (r#"{"code":"Ok","durations":[[1],[1,2]]}"#, "rows"),
            (r#"{"code":"Ok","durations":[[-1],[1]]}"#, "cannot be"),
            (r#"{"code":"Ok","durations":[[1e9],[1]]}"#, "cannot be"),
            ("<html>", "cannot be parsed"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with("refused") == reason.starts_with("refused"), "{text}: {error}");
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
