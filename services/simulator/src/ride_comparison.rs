//! After the rides: what the platform answers when it is asked for a ride, compared with the events that both parties
//! got; and that nobody is shown the ride of others. It owns no events and changes nothing.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use hyper::Method;
use serde_json::Value;
use tokio::time::timeout;

use crate::checker::FinalRide;
use crate::city::City;
use crate::frame::text;
use crate::http::Reply;

/// So many rides are asked for at most, evenly chosen.
const SAMPLE: usize = 1_000;
/// Of these, so many by a stranger.
const STRANGERS: usize = 20;
/// Calls at a time.
const AT_ONCE: usize = 8;
/// For everything.
const LIMIT: Duration = Duration::from_secs(60);

/// Asks for a sample of the rides that ended. Returns how many were compared.
pub(crate) async fn audit(city: &City) -> u64 {
    let rides = city.checks().final_rides();
    let step = rides.len().div_ceil(SAMPLE).max(1);
    let sample: Vec<_> = rides.iter().step_by(step).collect();
    let questions = sample.iter().enumerate().flat_map(|(index, ride)| {
        let parties = [Some(ride.driver_id.as_str()), Some(ride.passenger_id.as_str())];
        let stranger = (index < STRANGERS).then_some(None);
        parties.into_iter().chain(stranger).map(move |who| ask(city, ride, who))
    });
    let all = stream::iter(questions).buffer_unordered(AT_ONCE).for_each(|problem| async move {
        if let Some(problem) = problem {
            city.checks().violation(problem);
        }
    });
    if timeout(LIMIT, all).await.is_err() {
        city.checks().violation(format!("{} rides could not be asked for within {LIMIT:?}", sample.len()));
    }
    sample.len() as u64
}

/// Asks for a ride as one of its people, or as a stranger.
async fn ask(city: &City, ride: &FinalRide, who: Option<&str>) -> Option<String> {
    let FinalRide { ride_id, driver_id, passenger_id, .. } = ride;
    let account = match who {
        Some(user_id) => city.account(user_id),
        None => city.stranger(driver_id, passenger_id),
    }?;
    let answer = async {
        let token = account.token().await?;
        city.rides_http.call(Method::GET, &format!("/v1/rides/{ride_id}"), Some(&token), None).await
    };
    let user_id = &account.user_id;
    match (answer.await, who) {
        (Err(error), _) => Some(format!("ride {ride_id}: no answer to {user_id}: {error:#}")),
        (Ok(reply), Some(_)) => difference(ride, &reply).map(|what| format!("ride {ride_id} as {user_id}: {what}")),
        (Ok(reply), None) if reply.status == 404 => None,
        (Ok(reply), None) => Some(format!("ride {ride_id}: a stranger, {user_id}, is answered {}", reply.status)),
    }
}

/// How the answer differs from the events. Only fields that the answer has are compared, but it must have the status.
fn difference(ride: &FinalRide, reply: &Reply) -> Option<String> {
    if reply.status != 200 {
        return Some(format!("GET answers {}", reply.problem()));
    }
    let body = &reply.body;
    let status = text(body, "status");
    if status != ride.status.name() {
        return Some(format!("status `{status}`, but the last event was ride.{}", ride.status.name()));
    }
    let people = [("driver_id", &ride.driver_id), ("passenger_id", &ride.passenger_id)];
    for (field, user_id) in people {
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
    fn an_answer_must_agree_with_the_events() {
        let ride = FinalRide {
            ride_id: "r".into(),
            driver_id: "dan".into(),
            passenger_id: "pia".into(),
            status: Status::Completed,
            version: 4,
            total: Some(100),
        };
        let good = json!({"status": "completed", "driver_id": "dan", "version": 4, "fare": {"total": {"amount": 100}}});
        let check = |status, body| difference(&ride, &Reply { status, body });
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
