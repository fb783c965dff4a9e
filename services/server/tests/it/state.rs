//! A phone that forgot everything rebuilds its screen from one call, in each phase of a ride, and misses and doubles nothing; and what is
//! shown while another service is away.

use platform::World;
use serde_json::{Value, json};

use crate::harness::client::{Person, Socket, http};
use crate::harness::on_both_shapes;
use crate::harness::ride::{at, online, trip};
use crate::harness::running::{Running, Shape};
use crate::harness::until;

on_both_shapes!(a_reinstalled_phone_rebuilds_its_screen_in_each_phase);

/// The state of this person as the phone that was just installed gets it, with the parts that are not null; and its new socket, in place
/// of the one that is lost.
async fn reinstalled(person: &Person, lost: Socket) -> (Value, Vec<&'static str>, Socket) {
    drop(lost);
    let (status, state) = person.get("/v1/state").await;
    assert_eq!(status, 200, "{state}");
    let seq = state["seq"].as_u64().unwrap();
    let socket = person.connect(Some(seq)).await;
    assert!(socket.welcome["missed"].is_null() && socket.welcome["state"]["seq"] == socket.welcome["last_seq"]);
    let parts = ["search", "offer", "ride", "beacon", "debts"];
    let parts = parts.into_iter().filter(|part| !state[*part].is_null()).collect();
    assert_eq!(state.get("unavailable"), None, "{state}");
    (state, parts, socket)
}

async fn command(person: &Person, kind: &str, data: Value) -> (u16, Value) {
    let body = json!({"type": kind, "data": data});
    http(person.addr, "POST", "/v1/commands", Some(&person.token), Some(body)).await
}

async fn a_reinstalled_phone_rebuilds_its_screen_in_each_phase(shape: Shape) {
    let running = Running::start(shape, &["--payment-provider", "refuse"]).await;
    let (driver, passenger) = (Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await);
    let (d, p) = (driver.connect(None).await, passenger.connect(None).await);
    let (state, parts, mut d) = reinstalled(&driver, d).await;
    assert_eq!((parts, &state["user"]["driver"]["plate"]), (vec![], &json!("T 1")));
    assert_eq!(command(&passenger, "finder.update", trip()).await.0, 200);
    let (state, parts, p) = reinstalled(&passenger, p).await;
    assert_eq!((parts, &state["search"]["pickup"]), (vec!["search"], &trip()["pickup"]));
    online(&mut d, 40.751).await;
    let match_id = d.event("match.found").await["data"]["match_id"].clone();
    let (state, parts, d) = reinstalled(&driver, d).await;
    assert_eq!((parts, &state["offer"]["match_id"]), (vec!["offer", "beacon"], &match_id));
    let (state, parts, mut p) = reinstalled(&passenger, p).await;
    assert_eq!((parts, &state["offer"]["driver"]["plate"]), (vec!["search", "offer"], &json!("T 1")));
    // Its end is in what the new phone does not have yet.
    assert_eq!(command(&driver, "match.accept", json!({"match_id": match_id})).await.0, 200);
    p.event("ride.pickup").await;
    let (state, parts, mut p) = reinstalled(&passenger, p).await;
    assert_eq!((parts, &state["ride"]["match_id"]), (vec!["ride"], &match_id));
    let (ride_id, pin) = (state["ride"]["ride_id"].clone(), state["ride"]["pin"].clone());
    let (state, _, mut d) = reinstalled(&driver, d).await;
    assert_eq!((&state["ride"]["ride_id"], state["ride"]["passenger"].is_object()), (&ride_id, true));
    assert_eq!(command(&driver, "ride.start", json!({"ride_id": ride_id, "pin": pin})).await.0, 200);
    assert_eq!(p.event("ride.started").await["data"]["ride_id"], ride_id);
    d.event("ride.started").await;
    let (state, _, mut p) = reinstalled(&passenger, p).await;
    assert_eq!((&state["ride"]["status"], &state["ride"]["pin"]), (&json!("started"), &Value::Null));
    for (person, field) in [(&passenger, "driver"), (&driver, "passenger")] {
        let (status, ride) = person.get(&format!("/v1/rides/{}", ride_id.as_str().unwrap())).await;
        assert_eq!((status, ride[field].is_object()), (200, true), "{ride}");
    }
    let fix = json!({"location": at(40.76, -73.97), "recorded_at": World::real().now().to_rfc3339()});
    assert_eq!(command(&driver, "location.update", fix).await.0, 200);
    assert_eq!(command(&driver, "ride.arrive", json!({"ride_id": ride_id})).await.0, 200);
    p.event("ride.completed").await;
    // The provider refuses, and the passenger sees the debt once it is one.
    until("the debt is shown", async || !passenger.get("/v1/state").await.1["debts"].is_null()).await;
    let (state, parts, p) = reinstalled(&passenger, p).await;
    assert_eq!((parts, &state["debts"][0]["ride_id"]), (vec!["debts"], &ride_id));
    drop((d, p));
    running.stop().await;
}

#[tokio::test]
async fn while_a_service_is_away_the_rest_is_shown() {
    let mut running = Running::split(&[]).await;
    let users = running.addr();
    let (driver, passenger) = (Person::driver(users, 1).await, Person::passenger(users, 2).await);
    let (mut d, mut p) = (driver.connect(None).await, passenger.connect(None).await);
    online(&mut d, 40.751).await;
    p.ack("finder.update", trip()).await;
    let match_id = d.event("match.found").await["data"]["match_id"].clone();
    d.ack("match.accept", json!({"match_id": match_id})).await;
    let ride_id = p.event("ride.pickup").await["data"]["ride_id"].clone();
    let path = format!("/v1/rides/{}", ride_id.as_str().unwrap());
    let rides = running.apps[2].addr;
    let at_rides = async || http(rides, "GET", &path, Some(&passenger.token), None).await;
    let (status, ride) = at_rides().await;
    assert_eq!((status, &ride["driver"]["plate"]), (200, &json!("T 1")));
    drop((d, p));
    // Without users, of which there were two.
    for _ in 0..2 {
        let n = running.apps.iter().position(|app| app.addr != rides && app.routes.iter().any(|r| r.path == "/v1/me"));
        assert!(running.apps.remove(n.unwrap()).stop().await);
    }
    let (status, ride) = at_rides().await;
    assert_eq!((status, &ride["ride_id"], &ride["driver"]), (200, &ride_id, &Value::Null));
    running.stop().await;

    // Without rides.
    let mut running = Running::split(&[]).await;
    let passenger = Person::passenger(running.addr(), 3).await;
    assert_eq!(passenger.get("/v1/state").await.1.get("unavailable"), None);
    assert!(running.apps.remove(2).stop().await);
    let (status, state) = passenger.get("/v1/state").await;
    assert_eq!((status, &state["debts"], &state["unavailable"]), (200, &Value::Null, &json!(["debts"])));
    assert_eq!(passenger.connect(None).await.welcome["state"]["unavailable"], json!(["debts"]));
    running.stop().await;
}
