//! What operators are shown: a ride with all that is known of it, from whichever process; lists, the map, the bus, processes, and the
//! event stream.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use platform::World;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Desk, TokensFile, VIEWER};
use crate::harness::client::{Person, WAIT, http};
use crate::harness::described;
use crate::harness::ride::{drive, online, trip};
use crate::harness::running::{Running, Shape};
use crate::harness::{on_both_shapes, until};

on_both_shapes!(a_ride_is_shown_with_all_that_is_known_of_it, the_bus_and_the_processes_are_shown, a_stream_of_events);

async fn a_ride_is_shown_with_all_that_is_known_of_it(shape: Shape) {
    let desk = Desk::start(shape).await;
    let addr = desk.running.addr();
    let (d, p) = (Person::driver(addr, 1).await, Person::passenger(addr, 2).await);
    let (mut driver, mut passenger) = (d.connect(None).await, p.connect(None).await);
    let mut nearer = Person::driver(addr, 3).await.connect(None).await;
    online(&mut nearer, 40.7501).await;
    online(&mut driver, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    let found = nearer.event("match.found").await["data"]["match_id"].clone();
    nearer.ack("match.reject", json!({"match_id": found, "reason": "no"})).await;
    nearer.ack("beacon.update", json!({"active": false})).await;
    let found = driver.event("match.found").await["data"]["match_id"].clone();
    let search = desk.get("/live?box=40,-75,41,-73").await;
    assert_eq!(search["searches"].as_array().unwrap().len(), 1, "{search}");
    let ride = drive(&mut driver, &mut passenger, &found, &World::real()).await;
    passenger.event("ride.completed").await;
    let path = format!("/rides/{}", ride.as_str().unwrap());
    until("all of it is there", async || {
        let shown = desk.get(&path).await;
        shown["payment"]["status"] == "captured" && shown["track"]["is_final"] == true
    })
    .await;
    let shown = desk.get(&path).await;
    assert_eq!(shown["unavailable"], json!([]));
    assert_eq!((&shown["driver"]["phone"], &shown["driver"]["plate"]), (&json!("+12122340001"), &json!("T 1")));
    assert_eq!(shown["passenger"]["phone"], "+12122340002");
    let statuses: Vec<&Value> =
        shown["events"].as_array().unwrap().iter().map(|event| &event["body"]["status"]).collect();
    assert_eq!(statuses, ["pickup", "started", "arrived", "completed"]);
    assert!(shown["events"].as_array().unwrap().iter().all(|event| event["verifies"] == true));
    assert_eq!(shown["chain"], json!({"verifies": true, "fault": null}));
    let offers = shown["offers"].as_array().unwrap();
    let of = |offer: &Value| (offer["state"].clone(), offer["reason"].clone(), offer["found_at"].is_string());
    let expected = [(json!("declined"), json!("declined"), true), (json!("accepted"), Value::Null, true)];
    assert_eq!(offers.iter().map(of).collect::<Vec<_>>(), expected, "{offers:?}");
    assert_eq!(shown["track"]["points"].as_array().unwrap().len(), 10, "{}", shown["track"]);
    let sum: i64 = shown["ledger"].as_array().unwrap().iter().map(|e| e["amount"]["amount"].as_i64().unwrap()).sum();
    assert_eq!((sum, shown["ledger"].as_array().unwrap().len()), (0, 5), "{}", shown["ledger"]);
    assert_eq!((&shown["notes"], &shown["refunds"]), (&json!([]), &json!([])));

    let driver_id = shown["ride"]["driver_id"].as_str().unwrap();
    let listed = async |query: &str| desk.get(&format!("/rides?{query}")).await["rides"].as_array().unwrap().len();
    for (query, count) in [
        ("", 1),
        ("status=completed", 1),
        ("status=live", 0),
        ("status=cancelled", 0),
        ("market=world", 1),
        ("market=nowhere", 0),
        (&format!("user={driver_id}"), 1),
        ("user=0190b7a0-0000-7000-8000-000000000001", 0),
    ] {
        assert_eq!(listed(query).await, count, "{query}");
    }
    for wrong in ["status=flying", "user=x", "limit=0", "cursor=x"] {
        assert_eq!(desk.call(VIEWER, ("GET", &format!("/rides?{wrong}")), None, None).await.0, 422, "{wrong}");
    }

    // Pages, and the map.
    passenger.ack("finder.update", trip()).await;
    let found = driver.event("match.found").await["data"]["match_id"].clone();
    driver.ack("match.accept", json!({"match_id": found})).await;
    passenger.event("ride.pickup").await;
    let first = desk.get("/rides?limit=1").await;
    assert_eq!((first["rides"].as_array().unwrap().len(), &first["rides"][0]["status"]), (1, &json!("pickup")));
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = desk.get(&format!("/rides?limit=1&cursor={cursor}")).await;
    assert_eq!((&second["rides"][0]["ride_id"], &second["next_cursor"]), (&ride, &Value::Null));
    let second = desk.get(&format!("/rides?limit=1&user={driver_id}&cursor={cursor}")).await;
    assert_eq!(second["rides"][0]["ride_id"], ride);
    assert_eq!(listed("status=live").await, 1);
    for (query, count) in [("", 1), ("box=40,-75,41,-73", 1), ("box=40,-73,41,-75", 0), ("box=10,10,20,20", 0)] {
        let map = desk.get(&format!("/live?{query}")).await;
        let lists = ["positions", "rides"].map(|list| map[list].as_array().unwrap().len());
        assert_eq!((lists, &map["unavailable"]), ([count; 2], &json!([])), "{query}: {map}");
    }
    desk.stop().await;
}

async fn the_bus_and_the_processes_are_shown(shape: Shape) {
    let desk = Desk::start(shape).await;
    let streams = desk.get("/streams").await;
    let names: Vec<&str> =
        streams["streams"].as_array().unwrap().iter().map(|stream| stream["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    let admin = streams["streams"].as_array().unwrap().iter().find(|stream| stream["name"] == "ADMIN_STREAM").unwrap();
    assert_eq!((&admin["retention"], &admin["max_age_s"]), (&json!("limits"), &json!(365 * 86_400)));
    assert_eq!((&admin["state"], &admin["fill"]), (&json!("ok"), &json!(0.0)));
    let consumers = desk.get("/consumers").await["consumers"].clone();
    assert!(consumers.as_array().unwrap().iter().all(|c| c["state"] == "ok" && c["lag"] == 0), "{consumers}");
    let pods = async || desk.get("/pods").await["pods"].clone();
    until("a heartbeat came", async || pods().await[0]["uptime_s"].as_u64().unwrap() > 0).await;
    let pods = pods().await;
    assert_eq!((pods.as_array().unwrap().len(), &pods[0]["status"]), (1, &json!("ready")));
    assert_eq!(desk.get("/acts").await, json!({"acts": [], "next_cursor": null}));
    for n in 0..5 {
        desk.get(&format!("/users?phone=%2B1212234000{n}")).await;
    }
    desk.acts(5).await;
    let first = desk.get("/acts?limit=3").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = desk.get(&format!("/acts?limit=3&cursor={cursor}")).await;
    let sequences = [&first, &second].map(|page| {
        page["acts"].as_array().unwrap().iter().map(|act| act["sequence"].as_u64().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!((sequences, &second["next_cursor"]), ([vec![5, 4, 3], vec![2, 1]], &Value::Null));
    desk.stop().await;
}

/// One whole picture from any process; what does not answer is named, and the rest is shown.
#[tokio::test]
async fn a_process_of_any_service_shows_all_and_names_who_does_not_answer() {
    let file = TokensFile::new();
    let mut running = Running::split(&["--admin-tokens-file", file.path(), "--track-max-speed-mps", "1000000"]).await;
    let addr = running.addr();
    let (d, p) = (Person::driver(addr, 1).await, Person::passenger(addr, 2).await);
    let (mut driver, mut passenger) = (d.connect(None).await, p.connect(None).await);
    online(&mut driver, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    let found = driver.event("match.found").await["data"]["match_id"].clone();
    let ride = drive(&mut driver, &mut passenger, &found, &World::real()).await;
    passenger.event("ride.completed").await;
    let path = format!("/admin/v1/rides/{}", ride.as_str().unwrap());
    let addrs: Vec<_> = running.apps.iter().map(|app| app.addr).collect();
    for addr in &addrs {
        let get = async |path: &str| http(*addr, "GET", path, Some(VIEWER), None).await;
        let (status, shown) = get(&path).await;
        assert_eq!((status, &shown["unavailable"]), (200, &json!([])), "{shown}");
        assert!(shown["driver"]["phone"].is_string() && shown["offers"][0].is_object() && shown["track"].is_object());
        until("all pods are known", async || get("/admin/v1/pods").await.1["pods"].as_array().unwrap().len() == 5)
            .await;
        let pods = get("/admin/v1/pods").await.1["pods"].clone();
        assert!(pods.as_array().unwrap().iter().all(|pod| pod["status"] == "ready"), "{pods}");
    }
    // Both processes of users, and location, are gone.
    drop((driver, passenger));
    for n in [4, 3, 0] {
        assert!(running.apps.remove(n).stop().await);
    }
    let get = async |path: &str| http(addrs[1], "GET", path, Some(VIEWER), None).await;
    let (status, shown) = get(&path).await;
    assert_eq!((status, &shown["unavailable"]), (200, &json!(["users", "location"])), "{shown}");
    assert_eq!((&shown["driver"], &shown["offers"], &shown["track"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(shown["ride"]["status"], "completed");
    let (status, problem) = get("/admin/v1/drivers").await;
    assert_eq!((status, &problem["code"]), (503, &json!("unavailable")));
    let (status, map) = get("/admin/v1/live").await;
    assert_eq!((status, &map["unavailable"]), (200, &json!(["location", "users"])));
    running.stop().await;
}

async fn a_stream_of_events(shape: Shape) {
    let desk = Desk::start(shape).await;
    let addr = desk.running.addr();
    let open = async || {
        let request = hyper::Request::builder()
            .uri(format!("http://{addr}/admin/v1/stream"))
            .header("authorization", format!("Bearer {VIEWER}"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        timeout(WAIT, client.request(request)).await.unwrap().unwrap()
    };
    let response = open().await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut text = String::new();
    let mut next = async |name: &str| -> Value {
        loop {
            while let Some((event, rest)) = text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                text = rest;
                let Some((of, data)) = event.strip_prefix("event: ").and_then(|event| event.split_once("\ndata: "))
                else {
                    continue;
                };
                let data = serde_json::from_str(data).unwrap();
                described::operators_event(of, &data);
                if of == name {
                    return data;
                }
            }
            let frame = timeout(WAIT, body.frame()).await.unwrap().unwrap().unwrap();
            text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    };
    assert_eq!(next("live").await["rides"], json!([]));
    assert!(next("health").await["pods"].is_array());
    let (d, p) = (Person::driver(addr, 1).await, Person::passenger(addr, 2).await);
    let (mut driver, mut passenger) = (d.connect(None).await, p.connect(None).await);
    online(&mut driver, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    let found = driver.event("match.found").await["data"]["match_id"].clone();
    driver.ack("match.accept", json!({"match_id": found})).await;
    let pickup = passenger.event("ride.pickup").await["data"].clone();
    let change = next("ride").await;
    assert_eq!((&change["ride_id"], &change["status"]), (&pickup["ride_id"], &json!("pickup")));
    driver.ack("ride.start", json!({"ride_id": pickup["ride_id"], "pin": pickup["pin"]})).await;
    let change = next("ride").await;
    assert_eq!((&change["previous_status"], &change["status"]), (&json!("pickup"), &json!("started")));
    passenger.ack("ride.cancel", json!({"ride_id": pickup["ride_id"], "reason": "enough"})).await;
    assert_eq!(next("ride").await["status"], "ended");

    // They are bounded, and one whose client is gone makes room.
    let mut others = Vec::new();
    for _ in 0..7 {
        others.push(open().await);
    }
    let refused = open().await;
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (429, true));
    others.clear();
    until("there is room again", async || open().await.status() == 200).await;
    // A token that is not in the file any more ends its stream.
    desk.file.write(&[("ann", "admin", super::ADMIN)]);
    desk.running.apps[0].reload(&desk.running.settings);
    let ended = async {
        while let Some(frame) = body.frame().await {
            frame.unwrap();
        }
    };
    timeout(WAIT, ended).await.unwrap();
    desk.stop().await;
}
