//! The rehearsal of `docker/RUNBOOK-memory-to-nats.md`: a process on the memory bus and PostgreSQL stops in the middle of a ride, and
//! the platform goes on with NATS and the same database.

use platform::World;
use serde_json::json;
use server::app::App;
use streams::Service;
use testing::database;

use crate::harness::client::Person;
use crate::harness::nats::Nats;
use crate::harness::ride::{at, online, trip};
use crate::harness::running::{Running, settings};

#[tokio::test]
async fn rides_go_on_after_the_switch_from_the_memory_bus_to_nats() {
    let database = database::fresh().await;
    // The same before and after: the secret signs the tokens and keys the PINs.
    let common = ["--database-url", &database, "--jwt-secret", "a secret of thirty-two bytes or more"];
    let common = [&common[..], &["--otp-delivery", "response", "--database-connections", "6"]].concat();
    let common = [&common[..], &["--track-max-speed-mps", "1000000"]].concat();
    let memory = App::start(&settings(&common), &Service::ALL, World::real()).await.unwrap();
    let driver = [Person::driver(memory.addr, 1).await, Person::driver(memory.addr, 3).await];
    let passenger = [Person::passenger(memory.addr, 2).await, Person::passenger(memory.addr, 4).await];
    let mut d = driver[0].connect(None).await;
    let mut p = passenger[0].connect(None).await;
    online(&mut d, 40.751).await;
    p.ack("finder.update", trip()).await;
    let found = d.event("match.found").await["data"]["match_id"].clone();
    d.ack("match.accept", json!({"match_id": found})).await;
    let ride = p.event("ride.pickup").await["data"].clone();
    d.event("ride.pickup").await;
    d.ack("ride.start", json!({"ride_id": ride["ride_id"], "pin": ride["pin"]})).await;
    // A second ride is accepted just before the stop: its event may be anywhere between the outbox and its consumers.
    let mut d2 = driver[1].connect(None).await;
    let mut p2 = passenger[1].connect(None).await;
    online(&mut d2, 40.751).await;
    p2.ack("finder.update", trip()).await;
    let found = d2.event("match.found").await["data"]["match_id"].clone();
    d2.ack("match.accept", json!({"match_id": found})).await;
    let seen = [d.last_seq, p.last_seq, d2.last_seq, p2.last_seq];
    drop((d, p, d2, p2));
    assert!(memory.stop().await, "it drains");

    let nats = Nats::start().await;
    let settings = nats.settings(&common);
    let running = Box::pin(Running::on(nats, settings)).await;
    let addr = running.addr();
    let connect = async |person: &Person, seen: u64| Person { addr, ..person.clone() }.connect(Some(seen)).await;
    let mut d = connect(&driver[0], seen[0]).await;
    let mut p = connect(&passenger[0], seen[1]).await;
    let mut d2 = connect(&driver[1], seen[2]).await;
    let mut p2 = connect(&passenger[1], seen[3]).await;
    // The started ride ends.
    assert_eq!(d.welcome["state"]["ride"]["ride_id"], ride["ride_id"]);
    let now = World::real().now().to_rfc3339();
    d.ack("location.update", json!({"points": [{"location": at(40.76, -73.97), "recorded_at": now}]})).await;
    d.ack("ride.arrive", json!({"ride_id": ride["ride_id"]})).await;
    p.event("ride.completed").await;
    d.event("ride.completed").await;
    // The accepted one begins, with the PIN of before.
    let second = p2.event("ride.pickup").await["data"].clone();
    d2.event("ride.pickup").await;
    d2.ack("ride.start", json!({"ride_id": second["ride_id"], "pin": second["pin"]})).await;
    p2.event("ride.started").await;
    running.settled().await;
    drop((d, p, d2, p2));

    // RIDE_STREAM on NATS holds also what happened before the switch.
    let verified = running.nats().rideshare(&["audit", "verify", "--database-url", &database]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    running.stop().await;
}
