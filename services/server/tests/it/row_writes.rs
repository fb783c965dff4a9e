//! What a ride costs: the rows that PostgreSQL writes for a ride of 15 minutes with a point each 4 s, from going online to the last
//! deletion; and for a beacon that repeats what is known.
//!
//! Time is tokio's, and moves only in small steps between which the program works: every interval, batch and wait of the 15 minutes,
//! and of the ten days until everything is deleted, has the length that it has in reality.

use std::collections::BTreeMap;
use std::time::Duration;

use platform::World;
use serde_json::{Value, json};
use server::app::App;
use sqlx::{Connection, Row};
use streams::Service;
use testing::database;
use tokio::sync::oneshot;
use tokio::time::advance;

use crate::harness::client::{Person, Socket};
use crate::harness::ride::{at, online, trip};
use crate::harness::running::{Running, Shape, settings};
use crate::harness::until;

/// Points of the ride, one each [`SPACING`].
const POINTS: u32 = 225;
const SPACING: Duration = Duration::from_secs(4);
/// A step of the clock while people are online, and the time that the program has for it.
const STEP: Duration = Duration::from_millis(250);
const WORK: Duration = Duration::from_millis(5);
/// Until all that a ride has left is deleted.
const DAYS: u32 = 10;
/// Repeated beacons.
const REPEATS: u32 = 20;
/// The most row writes of a ride, deletions included.
const RIDE_MAX: i64 = 400;
/// Written by whoever takes a zone over, and here hours pass in steps in which a process loses all three: they are not counted with zones.
const OF_TAKE_OVERS: [&str; 2] = ["matching.recorded_steps", "matching.recorded_rules"];

/// Tables that a process, an open socket or a sign-in writes to, with a ride or without one.
const NOT_OF_RIDES: [&str; 6] =
    ["matching.lease", "matching.members", "users.pods", "users.sockets", "users.rate_limits", "users.user_sign_ins"];

type Writes = BTreeMap<String, [i64; 3]>;

/// Rows inserted, updated and deleted, by table. What a connection did counts from its end on at the latest.
async fn written(database: &str) -> Writes {
    let mut connection = sqlx::PgConnection::connect(database).await.unwrap();
    let rows = sqlx::query(
        "select schemaname || '.' || relname, n_tup_ins, n_tup_upd, n_tup_del from pg_stat_user_tables order by 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    rows.iter().map(|row| (row.get(0), [row.get(1), row.get(2), row.get(3)])).collect()
}

/// The writes by table between two moments.
fn between(before: &Writes, after: &Writes) -> Writes {
    let mut all = Writes::new();
    for (table, counts) in after {
        let was = before.get(table).copied().unwrap_or_default();
        all.insert(table.clone(), [0, 1, 2].map(|n| counts[n] - was[n]));
    }
    all.retain(|table, sums| sums.iter().sum::<i64>() > 0 && !NOT_OF_RIDES.contains(&table.as_str()));
    all
}

fn sum(writes: &Writes) -> i64 {
    writes.values().flatten().sum()
}

fn table(title: &str, writes: &Writes) -> String {
    let mut lines = vec![format!("{title}: {}", sum(writes))];
    let mut rows: Vec<_> = writes.iter().collect();
    rows.sort_by_key(|(_, sums)| -sums.iter().sum::<i64>());
    let row = |(name, [i, u, d]): &(&String, &[i64; 3])| format!("{name:<28}{i:>6}{u:>6}{d:>6}{:>7}", i + u + d);
    lines.extend(rows.iter().map(row));
    lines.join("\n")
}

/// Lets time pass in steps, between which the program works.
async fn pass(time: Duration, step: Duration, work: Duration) {
    let mut left = time;
    while !left.is_zero() {
        let step = step.min(left);
        advance(step).await;
        tokio::task::spawn_blocking(move || std::thread::sleep(work)).await.unwrap();
        left -= step;
    }
}

struct Platform {
    app: App,
    world: World,
}

/// What is measured.
struct Measure {
    database: String,
    world: World,
    /// MATCH_ZONES.
    zones: &'static str,
}

impl Platform {
    async fn start(Measure { database, world, zones }: &Measure) -> Self {
        let secret = "a secret of thirty-two bytes or more";
        let args = [
            "--database-url",
            database,
            "--jwt-secret",
            secret,
            "--otp-delivery",
            "response",
            "--database-connections",
            "6",
            "--match-zones",
            zones,
            "--match-zone-km",
            "1",
        ];
        let app = App::start(&settings(&args), &Service::ALL, world.clone()).await.unwrap();
        Self { app, world: world.clone() }
    }

    async fn stop(self) {
        assert!(self.app.stop().await);
    }
}

/// Runs `action`, and lets time pass until it is done.
async fn meanwhile<R>(action: impl Future<Output = R>) -> R {
    tokio::pin!(action);
    loop {
        tokio::select! {
            biased;
            done = &mut action => return done,
            () = pass(STEP, STEP, WORK) => {}
        }
    }
}

/// One ride of [`POINTS`] points, from the beacon to the receipt.
async fn ride(platform: &Platform, mut driver: Person, mut passenger: Person) {
    let (mut d, mut p) = meanwhile(async { (driver.connect(None).await, passenger.connect(None).await) }).await;
    let found = meanwhile(async {
        online(&mut d, 40.75).await;
        p.ack("finder.update", trip()).await;
        d.event("match.found").await["data"]["match_id"].clone()
    })
    .await;
    let ride_id = meanwhile(async {
        d.ack("match.accept", json!({"match_id": found})).await;
        let pickup = p.event("ride.pickup").await["data"].clone();
        d.event("ride.pickup").await;
        d.ack("ride.start", json!({"ride_id": pickup["ride_id"], "pin": pickup["pin"]})).await;
        pickup["ride_id"].clone()
    })
    .await;
    for n in 1..=POINTS {
        pass(SPACING, STEP, WORK).await;
        if n == POINTS / 2 {
            // An access token lives for 15 minutes: apps renew it, and connect again.
            (d, p) = meanwhile(async {
                driver = driver.renewed(driver.addr).await;
                passenger = passenger.renewed(passenger.addr).await;
                (driver.connect(Some(d.last_seq)).await, passenger.connect(Some(p.last_seq)).await)
            })
            .await;
        }
        // 9 km in all, as the trip's dropoff is a kilometre away: three rounds of it.
        let turn = f64::from(n) / f64::from(POINTS) * 3.0 * std::f64::consts::TAU;
        let place = at(40.755 - 0.005 * turn.cos(), -73.975 - 0.005 * turn.sin());
        let point = json!({"location": place, "accuracy_m": 5.0, "recorded_at": platform.world.now().to_rfc3339()});
        meanwhile(d.ack("location.update", point)).await;
    }
    meanwhile(async {
        d.ack("ride.arrive", json!({"ride_id": ride_id})).await;
        let done = p.event("ride.completed").await;
        d.event("ride.completed").await;
        assert!(done["data"]["distance_m"].as_f64().unwrap() > 5_000.0, "{done}");
        assert_eq!(done["data"]["estimated"], Value::Null, "{done}");
        for socket in [&mut d, &mut p] {
            let seq = socket.last_seq;
            socket.ack("mailbox.ack", json!({"seq": seq})).await;
        }
    })
    .await;
    meanwhile(async {
        let (status, receipt) = passenger.get(&format!("/v1/rides/{}", ride_id.as_str().unwrap())).await;
        assert_eq!((status, &receipt["status"]), (200, &json!("completed")));
    })
    .await;
    // The capture.
    pass(Duration::from_secs(30), STEP, WORK).await;
}

/// A driver on duty who repeats the beacon each 10 s, from places within 50 m.
async fn beacons(d: &mut Socket) {
    for n in 0..REPEATS {
        pass(Duration::from_secs(10), STEP, WORK).await;
        meanwhile(online(d, 40.75 + f64::from(n % 4) * 0.0001)).await;
    }
}

async fn measure(zones: &'static str) -> (Writes, Writes) {
    // Without this, tokio moves a paused clock to the next timer whenever all tasks wait, also while PostgreSQL works.
    let (end, ended) = oneshot::channel::<()>();
    let standing = tokio::task::spawn_blocking(move || ended.blocking_recv());
    let world = World::seeded("2026-06-01T12:00:00Z".parse().unwrap(), 1);
    let database = database::fresh().await;
    let measure = Measure { database, world, zones };
    let Measure { database, .. } = &measure;

    let platform = Platform::start(&measure).await;
    let addr = platform.app.addr;
    let (driver, passenger) =
        meanwhile(async { (Person::driver(addr, 1).await, Person::passenger(addr, 2).await) }).await;
    pass(Duration::from_secs(30), STEP, WORK).await;
    platform.stop().await;

    let before = written(database).await;
    let platform = Platform::start(&measure).await;
    let addr = platform.app.addr;
    let (driver, passenger) = meanwhile(async { (driver.renewed(addr).await, passenger.renewed(addr).await) }).await;
    ride(&platform, driver, passenger).await;
    pass(Duration::from_secs(86_400) * DAYS, Duration::from_secs(3_600), Duration::from_millis(60)).await;
    platform.stop().await;
    let of_ride = between(&before, &written(database).await);

    let platform = Platform::start(&measure).await;
    let other = meanwhile(Person::driver(platform.app.addr, 3)).await;
    let mut d = meanwhile(other.connect(None)).await;
    meanwhile(online(&mut d, 40.75)).await;
    // The backends report what they counted at the latest after 10 s of their own time.
    tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(11))).await.unwrap();
    let before = written(database).await;
    beacons(&mut d).await;
    tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(11))).await.unwrap();
    let mut of_beacons = between(&before, &written(database).await);
    // An open socket marks its device as seen, with beacons or without.
    of_beacons.remove("users.mailbox_devices");
    drop(d);
    platform.stop().await;
    drop(end);
    let _ = standing.await;
    (of_ride, of_beacons)
}

#[test]
fn a_ride_of_15_minutes_writes_at_most_400_rows_and_a_repeated_beacon_none() {
    check("1", &[]);
}

#[test]
fn a_ride_of_15_minutes_writes_at_most_400_rows_with_three_zones_and_a_repeated_beacon_none() {
    check("3", &OF_TAKE_OVERS);
}

fn check(zones: &'static str, not_counted: &[&str]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (mut of_ride, mut of_beacons) = runtime.block_on(measure(zones));
    for writes in [&mut of_ride, &mut of_beacons] {
        writes.retain(|table, _| !not_counted.contains(&table.as_str()));
    }
    let ride = table("row writes of a ride of 15 minutes (inserted, updated, deleted, all)", &of_ride);
    let beacons = table("row writes of repeated beacons", &of_beacons);
    println!("{ride}\n{beacons}");
    assert!(sum(&of_ride) <= RIDE_MAX, "{ride}");
    assert_eq!(sum(&of_beacons), 0, "{beacons}");
}

/// From this follows how large LOCATION_STREAM must be, as README says.
#[tokio::test]
async fn a_point_takes_at_most_900_bytes_of_its_stream() {
    const SENT: u32 = 100;
    let running = Running::start(Shape::Nats, &[]).await;
    let (driver, passenger) = (Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await);
    let (mut d, mut p) = (driver.connect(None).await, passenger.connect(None).await);
    online(&mut d, 40.75).await;
    p.ack("finder.update", trip()).await;
    let found = d.event("match.found").await["data"]["match_id"].clone();
    d.ack("match.accept", json!({"match_id": found})).await;
    d.event("ride.pickup").await;
    let now = World::real().now();
    let points: Vec<Value> = (0..SENT)
        .map(|n| {
            let recorded_at = now - chrono::Duration::milliseconds(i64::from(SENT - n) * 50);
            let place = at(40.755_123_456_7 - f64::from(n) * 0.000_1, -73.975_123_456_7);
            json!({"location": place, "accuracy_m": 4.812_345, "speed_mps": 11.123_456, "heading_deg": 181.123_456,
                "recorded_at": recorded_at.to_rfc3339()})
        })
        .collect();
    d.ack("location.update", json!({"points": points})).await;
    let info = running.bus().stream_info("LOCATION_STREAM").await.unwrap();
    println!("{} points take {} bytes: {} each", info.messages, info.bytes, info.bytes / info.messages);
    assert_eq!(info.messages, u64::from(SENT), "points of a ride stay in the stream until they are rows");
    assert!(info.bytes <= 900 * info.messages, "{} bytes", info.bytes / info.messages);
    until("the points are rows", async || running.bus().stream_info("LOCATION_STREAM").await.unwrap().messages == 0)
        .await;
    running.stop().await;
}
