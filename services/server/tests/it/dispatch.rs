//! Decisions of match afterwards: what a driver is shown of them, and what the command line says.

use serde_json::{Value, json};

use crate::harness::client::Person;
use crate::harness::ride::{online, trip};
use crate::harness::running::{Running, Shape};
use crate::harness::{on_both_shapes, rideshare};

on_both_shapes!(decisions_are_explained);

async fn decisions_are_explained(shape: Shape) {
    let running = Running::start(shape, &[]).await;
    let addr = running.addr();
    let (near, far) = (Person::driver(addr, 1).await, Person::driver(addr, 2).await);
    let passenger = Person::passenger(addr, 3).await;
    let (mut near_socket, mut far_socket) = (near.connect(None).await, far.connect(None).await);
    online(&mut near_socket, 40.751).await;
    online(&mut far_socket, 40.77).await;
    let mut socket = passenger.connect(None).await;
    let request = socket.ack("finder.update", trip()).await;
    let offer = near_socket.event("match.found").await;
    let (match_id, driver_id) = (text(&offer["data"]["match_id"]), text(&offer["data"]["driver_id"]));

    // Both were on duty when the search came, or the farther one came later and was not asked.
    let (status, missed) = far.get("/v1/me/missed-offers").await;
    assert_eq!(status, 200, "{missed}");
    // The record is younger than a quarter of an hour.
    assert!(missed["complete_since"].as_str().unwrap() > missed["since"].as_str().unwrap(), "{missed}");
    for search in missed["searches"].as_array().unwrap() {
        assert_eq!(
            (&search["why"], &search["distance_m"], &search["nearer_by_m"]),
            (&json!("farther"), &json!(2_200.0), &json!(2_100.0))
        );
        let all = search.to_string();
        assert!(!all.contains(&driver_id) && !all.contains(&match_id), "{all}");
    }
    assert_eq!(near.get("/v1/me/missed-offers").await.1["searches"], json!([]));
    let (status, refused) = passenger.get("/v1/me/missed-offers").await;
    assert_eq!((status, &refused["code"]), (403, &json!("not_driver")));
    let (status, refused) = near.get("/v1/me/missed-offers?since=yesterday").await;
    assert_eq!((status, &refused["field"]), (422, &json!("since")));
    let (status, later) = far.get("/v1/me/missed-offers?since=2100-01-01T00:00:00Z").await;
    assert_eq!((status, &later["searches"]), (200, &json!([])));

    match shape {
        Shape::Embedded => {
            let output = rideshare(&["dispatch", "explain", "--match", &match_id]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains("the record lives in the process"), "{said}");
        }
        Shape::Nats | Shape::Secured => {
            let database = running.settings.database_url.clone().expect("it is on PostgreSQL");
            let run = move |args: &[&str]| {
                let output = rideshare(&[&["--database-url", &database], args].concat());
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                (output.status.success(), String::from_utf8(output.stdout).unwrap(), said)
            };
            let (done, explained, said) = run(&["dispatch", "explain", "--match", &match_id, "--format", "json"]);
            assert!(done, "{said}");
            let explained: Value = serde_json::from_str(&explained).unwrap();
            let decision = &explained["decisions"][0];
            assert_eq!((&explained["reproduced"], &decision["outcome"]), (&json!(true), &json!("offered")));
            assert_eq!(
                (&decision["match_id"], &decision["candidates"][0]["why"]),
                (&json!(match_id), &json!("offered"))
            );
            let (done, table, _) = run(&["dispatch", "explain", "--request", &text(&request["request_id"])]);
            assert!(
                done && table.contains(&format!("offered as match {match_id}")) && table.contains("OFFERED"),
                "{table}"
            );
            let (done, _, _) = run(&["dispatch", "explain", "--match", "0190b7a0-0000-7000-8000-000000000001"]);
            assert!(!done, "nobody decided that");
            let (done, report, said) =
                run(&["dispatch", "what-if", "--policy", "batched", "--since", "10m", "--format", "json"]);
            assert!(done, "{said}");
            let report: Value = serde_json::from_str(&report).unwrap();
            assert_eq!((&report["happened"]["requests"], &report["gaps"]), (&json!(1), &json!(0)), "{report}");
            let without_rate = |side: &Value| {
                let mut side = side.clone();
                side.as_object_mut().unwrap().remove("decisions_per_s");
                side
            };
            assert_eq!(without_rate(&report["happened"]), without_rate(&report["what_if"]));
            let (done, table, _) = run(&["dispatch", "what-if", "--policy", "first-come", "--since", "10m"]);
            assert!(done && table.contains("happened") && table.contains("first-come"), "{table}");
        }
    }
    running.stop().await;
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
