//! PostgreSQL is away while the drivers of rides send their positions: LOCATION_STREAM stores them, nobody's socket ends, and when the database
//! is back every position is in the track of its ride, and every ride is billed by them. How much is offered and for how long is set by
//! `scripts/outage`; the suite runs a short one.

use std::net::SocketAddr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use platform::World;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use streams::Bus;
use testing::http;
use testing::nats::Server;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::fleet::Fleet;
use crate::processes::{Addresses, Directory};
use crate::rig::number;
use crate::servers::Postgres;

/// For everything that a person waits for.
const WAIT: Duration = Duration::from_secs(60);
/// Positions before the outage and after it.
const AROUND: Duration = Duration::from_secs(3);
/// The most points of a frame.
const FRAME_MAX: usize = 100;
/// Pairs that meet at the same time.
const PAIRS: usize = 16;
/// Between positions of the way that is driven while the last of the load is stored.
const REST_STEP_S: f64 = 4.0;
/// Of a driver, m/s.
const SPEED: f64 = 10.0;

struct Plan {
    away: Duration,
    points_per_s: u64,
    rides: u64,
    /// LOCATION_STREAM_MAX_BYTES; empty: the default.
    bytes: String,
}

async fn post(addr: SocketAddr, path: &str, token: Option<&str>, body: Value) -> Value {
    let (status, answer) = http::request(addr, "POST", path, token, Some(body)).await.unwrap();
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
    answer
}

/// The access token and the refresh token.
async fn sign_in(users: SocketAddr, number: u64) -> (String, String) {
    let phone = format!("+1212{:07}", 3_000_000 + number);
    let asked = post(users, "/v1/auth/otp", None, json!({"phone": phone})).await;
    let body = json!({"phone": phone, "code": asked["code"], "request_id": asked["request_id"]});
    let signed_in = post(users, "/v1/auth/token", None, body).await;
    tokens(&signed_in)
}

fn tokens(signed_in: &Value) -> (String, String) {
    let token = |name: &str| signed_in[name].as_str().unwrap().to_owned();
    (token("access_token"), token("refresh_token"))
}

/// The place of a driver who has gone so many metres. Each goes north, from a place 11 km from the next one.
fn place(number: u64, metres: f64) -> Value {
    json!({"lat": 5.0 + number as f64 * 0.1 + metres / 111_195.0, "lng": -73.98})
}

/// A driver in a ride.
struct Driver {
    number: u64,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    ride: Value,
    began_at: DateTime<Utc>,
    /// Positions that the platform has acknowledged.
    acked: u64,
    refresh_token: String,
}

impl Driver {
    /// A driver and a passenger sign in, meet, and begin their ride.
    async fn in_ride(users: SocketAddr, number: u64) -> Self {
        let (passenger, _) = sign_in(users, 2 * number).await;
        let (token, refresh_token) = sign_in(users, 2 * number + 1).await;
        let plate = json!({"vehicle_type": "car", "plate": format!("O {number}")});
        post(users, "/v1/drivers", Some(&token), plate).await;
        let mut request = format!("ws://{users}/v1/ws").into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let (socket, _) = timeout(WAIT, connect_async(request)).await.unwrap().unwrap();
        let mut driver =
            Self { number, socket, ride: Value::Null, began_at: World::real().now(), acked: 0, refresh_token };
        let _welcome = driver.frame().await;
        driver.command("beacon.update", json!({"active": true, "location": place(number, 0.0)})).await;
        let trip = json!({
            "active": true, "pickup": place(number, 10.0), "dropoff": place(number, 5_000.0), "vehicle_type": "car",
        });
        let search = json!({"id": "s", "type": "finder.update", "data": trip});
        post(users, "/v1/commands", Some(&passenger), search).await;
        let found = driver.event("match.found").await;
        driver.command("match.accept", json!({"match_id": found["match_id"]})).await;
        driver.ride = driver.event("ride.pickup").await["ride_id"].clone();
        let (_, state) = http::request(users, "GET", "/v1/state", Some(&passenger), None).await.unwrap();
        driver.command("ride.start", json!({"ride_id": driver.ride, "pin": state["ride"]["pin"]})).await;
        driver
    }

    async fn frame(&mut self) -> Value {
        loop {
            match timeout(WAIT, self.socket.next()).await.expect("a frame in time").expect("an open socket").unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Close(close) => panic!("the socket of driver {} was closed: {close:?}", self.number),
                _ => {}
            }
        }
    }

    /// The data of the next event of this type.
    async fn event(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["type"] == kind {
                return frame["data"].clone();
            }
        }
    }

    /// Sends a command, which must be acked.
    async fn command(&mut self, kind: &str, data: Value) -> Value {
        let text = json!({"id": kind, "type": kind, "data": data}).to_string();
        self.socket.send(Message::text(text)).await.unwrap();
        loop {
            let frame = self.frame().await;
            if frame["id"] == kind {
                assert_eq!(frame["type"], "ack", "{frame}");
                return frame["data"].clone();
            }
        }
    }

    /// Drives until `end`: once a second it sends the positions since the last time, so many for each second.
    async fn drive(&mut self, points_per_s: f64, mut end: watch::Receiver<bool>) {
        self.began_at = World::real().now();
        let mut ticks = interval(Duration::from_secs(1));
        loop {
            let is_over = tokio::select! {
                biased;
                _ = end.wait_for(|is_over| *is_over) => true,
                _ = ticks.tick() => false,
            };
            let seconds = (World::real().now() - self.began_at).as_seconds_f64();
            let due: Vec<u64> = (self.acked..(seconds * points_per_s) as u64).collect();
            for some in due.chunks(FRAME_MAX) {
                let points: Vec<Value> = some.iter().map(|n| self.point(*n as f64 / points_per_s)).collect();
                let ack = self.command("location.update", json!({"points": points})).await;
                assert_eq!(ack["left_out"], Value::Null, "of a ride no position is left out");
                self.acked += some.len() as u64;
            }
            if is_over {
                return;
            }
        }
    }

    fn point(&self, seconds: f64) -> Value {
        let at = self.began_at + TimeDelta::microseconds((seconds * 1e6) as i64);
        json!({"location": place(self.number, 10.0 + SPEED * seconds), "accuracy_m": 4.0, "recorded_at": at.to_rfc3339()})
    }

    /// Sends the way since the last position, and arrives, by requests with a new token: that of the socket may be over after a long outage.
    /// Returns how far it drove, metres.
    async fn arrive(&self, users: SocketAddr, points_per_s: f64) -> f64 {
        let signed_in = post(users, "/v1/auth/refresh", None, json!({"refresh_token": self.refresh_token})).await;
        let (token, _) = tokens(&signed_in);
        let since = self.acked as f64 / points_per_s;
        let now = (World::real().now() - self.began_at).as_seconds_f64();
        let steps = (0..).map(|n| since + REST_STEP_S * f64::from(n)).take_while(|at| *at < now);
        let rest: Vec<f64> = steps.chain([now]).collect();
        for some in rest.chunks(FRAME_MAX) {
            let points: Vec<Value> = some.iter().map(|at| self.point(*at)).collect();
            let body = json!({"id": "l", "type": "location.update", "data": {"points": points}});
            post(users, "/v1/commands", Some(&token), body).await;
        }
        let data = json!({"ride_id": self.ride});
        let body = json!({"id": "a", "type": "ride.arrive", "data": data});
        post(users, "/v1/commands", Some(&token), body).await;
        SPEED * now
    }
}

/// The largest that LOCATION_STREAM was.
#[derive(Default)]
struct Peak {
    messages: u64,
    bytes: u64,
}

impl Peak {
    async fn look(&mut self, bus: &Bus) -> u64 {
        let info = bus.stream_info("LOCATION_STREAM").await.unwrap();
        if info.bytes > self.bytes {
            (self.messages, self.bytes) = (info.messages, info.bytes);
        }
        info.messages
    }

    /// Looks every second for so long.
    async fn watch(&mut self, bus: &Bus, wait: Duration) {
        let until = Instant::now() + wait;
        while Instant::now() < until {
            self.look(bus).await;
            sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn scalar(database: &str, query: &'static str) -> i64 {
    let mut connection = PgConnection::connect(database).await.unwrap();
    sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
}

const TRACK_POINTS: &str = "select (select coalesce(sum(cardinality(recorded_at)), 0) from location.track_chunks)::bigint \
                            + (select count(*) from location.track_point_rows)";

async fn run(plan: &Plan) {
    let (logs, nats) = (Directory::new(), Server::new().unwrap());
    let mut postgres = Postgres::new(&logs.0).await;
    let servers = Addresses::new(&nats.url, &Postgres::url(postgres.port()));
    let mut fleet = Fleet::new(&servers, &logs);
    // Pairs meet with nobody else; and a driver who arrives has sent everything.
    let mut settings = vec![
        ("MATCH_RADIUS_M", "2000".to_owned()),
        ("MATCH_OFFER_TTL_S", "60".to_owned()),
        ("TRACK_FINAL_WAIT_S", "2".to_owned()),
    ];
    if !plan.bytes.is_empty() {
        settings.push(("LOCATION_STREAM_MAX_BYTES", plan.bytes.clone()));
    }
    fleet.set(&settings.into_iter().collect());
    fleet.start().await;
    let (bus, users) = (servers.bus().await, fleet.of_service("users").address());
    let began = Instant::now();
    let mut drivers = Vec::new();
    for some in (0..plan.rides).collect::<Vec<_>>().chunks(PAIRS) {
        drivers.extend(join_all(some.iter().map(|number| Driver::in_ride(users, *number))).await);
    }
    eprintln!("{} rides began in {:.0} s", plan.rides, began.elapsed().as_secs_f64());

    let (end, is_over) = watch::channel(false);
    let each_s = plan.points_per_s as f64 / plan.rides as f64;
    let driving = join_all(drivers.iter_mut().map(|driver| driver.drive(each_s, is_over.clone())));
    let mut peak = Peak::default();
    let outage = async {
        peak.watch(&bus, AROUND).await;
        postgres.crash().await;
        let began = Instant::now();
        peak.watch(&bus, plan.away).await;
        postgres.start().await;
        eprintln!("PostgreSQL was away for {:.0} s", began.elapsed().as_secs_f64());
        peak.watch(&bus, AROUND).await;
        end.send(true).unwrap();
    };
    tokio::join!(driving, outage);
    let sent: u64 = drivers.iter().map(|driver| driver.acked).sum();
    let seconds = (World::real().now() - drivers[0].began_at).as_seconds_f64();
    eprintln!(
        "{sent} positions of rides were acknowledged, {:.0} a second; LOCATION_STREAM held {} messages and {} MiB at most",
        sent as f64 / seconds,
        peak.messages,
        peak.bytes >> 20
    );
    let until = Instant::now() + WAIT + 10 * plan.away;
    let began = Instant::now();
    loop {
        let (left, rows) = (peak.look(&bus).await, scalar(&servers.database, TRACK_POINTS).await);
        if left == 0 && rows == sent as i64 {
            break;
        }
        assert!(Instant::now() < until, "{rows} of {sent} positions are in tracks, {left} messages are left");
        sleep(Duration::from_secs(1)).await;
    }
    eprintln!("all {sent} of them are in tracks after {:.0} s more", began.elapsed().as_secs_f64());
    for process in &fleet.processes {
        process.wait_ready().await;
    }
    let mut driven = 0.0;
    for some in drivers.chunks(PAIRS) {
        driven += join_all(some.iter().map(|driver| driver.arrive(users, each_s))).await.into_iter().sum::<f64>();
    }
    let until = Instant::now() + WAIT + plan.away;
    let billed = "select count(*) from rides.rides where status = 'completed'";
    while scalar(&servers.database, billed).await < plan.rides as i64 {
        assert!(Instant::now() < until, "not every ride is billed");
        sleep(Duration::from_secs(1)).await;
    }
    let billed = scalar(&servers.database, "select sum(distance_m)::bigint from rides.rides").await as f64;
    eprintln!("{driven:.0} m were driven, {billed:.0} m are billed");
    assert!((billed / driven - 1.0).abs() < 0.02, "every ride is billed by its positions");
    drop(drivers);
    crate::fleet::at_rest(&servers.database, &bus).await;
    servers.succeeds(&["audit", "verify"]).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_position_of_a_ride_is_lost_while_postgresql_is_away() {
    run(&Plan {
        away: Duration::from_secs(number("OUTAGE_SECONDS", 8)),
        points_per_s: number("OUTAGE_POINTS_PER_S", 200),
        rides: number("OUTAGE_RIDES", 4),
        bytes: std::env::var("OUTAGE_STREAM_BYTES").unwrap_or_default(),
    })
    .await;
}
