//! After the run: compares `GET /v1/rides/{id}` with the events that both parties received, and makes sure that a stranger
//! gets 404.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use hyper::Method;
use serde_json::Value;
use tokio::time::timeout;

use crate::checker::EndedRide;
use crate::city::City;
use crate::frame::text;
use crate::http::Response;

/// The most rides that are compared, evenly chosen.
const SAMPLE: usize = 1_000;
/// For so many of these, a stranger asks too.
const STRANGERS: usize = 20;
const CONCURRENT_CALLS: usize = 8;
/// The wait for all calls.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Compares a sample of the ended rides and reports each difference to the checker. Returns how many were compared.
pub(crate) async fn compare_rides(city: &City) -> u64 {
    let rides = city.checker().ended_rides();
    let step = rides.len().div_ceil(SAMPLE).max(1);
    let sample: Vec<_> = rides.iter().step_by(step).collect();
    let calls = sample.iter().enumerate().flat_map(|(index, ride)| {
        let parties = [Some(ride.driver_id.as_str()), Some(ride.passenger_id.as_str())];
        let stranger = (index < STRANGERS).then_some(None);
        parties.into_iter().chain(stranger).map(move |user_id| compare(city, ride, user_id))
    });
    let all = stream::iter(calls).buffer_unordered(CONCURRENT_CALLS).for_each(|problem| async move {
        if let Some(problem) = problem {
            city.checker().violation(problem);
        }
    });
    if timeout(TIMEOUT, all).await.is_err() {
        city.checker().violation(format!("{} rides could not be read over HTTP within {TIMEOUT:?}", sample.len()));
    }
    sample.len() as u64
}

/// Reads the ride as one of its parties, or as a stranger (`None`). Returns what is wrong with the response.
async fn compare(city: &City, ride: &EndedRide, party: Option<&str>) -> Option<String> {
    let EndedRide { ride_id, driver_id, passenger_id, .. } = ride;
    let account = match party {
        Some(user_id) => city.account(user_id),
        None => city.stranger(driver_id, passenger_id),
    }?;
    let response = async {
        let token = account.token().await?;
        city.rides_client.call(Method::GET, &format!("/v1/rides/{ride_id}"), Some(&token), None).await
    };
    let user_id = &account.user_id;
    match (response.await, party) {
        (Err(error), _) => Some(format!("ride {ride_id}: no answer to {user_id}: {error:#}")),
        (Ok(response), Some(_)) => {
            difference(ride, &response).map(|difference| format!("ride {ride_id} as {user_id}: {difference}"))
        }
        (Ok(response), None) if response.status == 404 => None,
        (Ok(response), None) => Some(format!("ride {ride_id}: a stranger, {user_id}, is answered {}", response.status)),
    }
}

/// How the response differs from the events. Only the fields that it has are compared, but it must have the status.
fn difference(ride: &EndedRide, response: &Response) -> Option<String> {
    if response.status != 200 {
        return Some(format!("GET answers {}", response.problem()));
    }
    let body = &response.body;
    let status = text(body, "status");
    if status != ride.status.name() {
        return Some(format!("status `{status}`, but the last event was ride.{}", ride.status.name()));
    }
    for (field, user_id) in [("driver_id", &ride.driver_id), ("passenger_id", &ride.passenger_id)] {
        let found = text(body, field);
        if !found.is_empty() && found != user_id {
            return Some(format!("{field} {found}, but the events said {user_id}"));
        }
    }
    if let Some(version) = body.get("version").and_then(Value::as_u64)
        && version != ride.version
    {
        return Some(format!("version {version}, but the last event had {}", ride.version));
    }
    let total = body.pointer("/fare/total/amount").and_then(Value::as_i64);
    if let (Some(total), Some(expected)) = (total, ride.total)
        && total != expected
    {
        return Some(format!("a fare of {total}, but the event said {expected}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Status;
    use serde_json::json;

    #[test]
    fn a_response_must_agree_with_the_events() {
        let ride = EndedRide {
            ride_id: "r".into(),
            driver_id: "dan".into(),
            passenger_id: "pia".into(),
            status: Status::Completed,
            version: 4,
            total: Some(100),
        };
        let good = json!({"status": "completed", "driver_id": "dan", "version": 4, "fare": {"total": {"amount": 100}}});
        let check = |status, body| difference(&ride, &Response { status, body });
        assert_eq!(check(200, good.clone()), None);
        let cases = [
            ("status", json!("arrived"), "arrived"),
            ("driver_id", json!("eve"), "eve"),
            ("version", json!(5), "version 5"),
            ("fare", json!({"total": {"amount": 7}}), "fare of 7"),
        ];
        for (field, value, named) in cases {
            let mut body = good.clone();
            body[field] = value;
            assert!(check(200, body).unwrap().contains(named));
        }
        assert!(check(404, json!({"code": "not_found"})).unwrap().contains("not_found"));
    }
}
