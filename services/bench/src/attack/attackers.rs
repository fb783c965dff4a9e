//! Ten attackers, each with one idea.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use platform::{CancellationToken, World};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::connection::{Http, WebSocket, tcp};

/// Tries a second of each attacker.
const RATE: u32 = 300;
/// Connections that the holder of connections wants.
const CONNECTIONS: usize = 500;
/// The honest person whom one attacker wants to lock out.
const VICTIM: &str = "+12125550147";

/// What one attacker did and got.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) name: &'static str,
    tried: u64,
    /// Answered as asked: a code sent, a command acked.
    got: u64,
    /// 429, an error frame, a closed connection.
    refused: u64,
    /// What nobody may get.
    pub(super) wrong: Option<String>,
}

impl Tally {
    fn of(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    fn count(&mut self, got: bool) {
        self.tried += 1;
        if got { self.got += 1 } else { self.refused += 1 }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tries, {} got, {} refused", self.tried, self.got, self.refused)
    }
}

#[derive(Clone)]
struct Attacker {
    from: Ipv4Addr,
    users: Vec<String>,
    others: String,
    nats: String,
    stop: CancellationToken,
    world: World,
}

pub(super) struct Attack(JoinSet<Result<Tally>>);

impl Attack {
    pub(super) async fn results(mut self) -> Result<Vec<Tally>> {
        let mut tallies = Vec::new();
        while let Some(tally) = self.0.join_next().await {
            tallies.push(tally??);
        }
        tallies.sort_by_key(|tally| tally.name);
        Ok(tallies)
    }
}

pub(super) fn start(users: &[String], others: &str, nats: &str, world: &World, stop: &CancellationToken) -> Attack {
    let attacker = |n: u8| Attacker {
        from: Ipv4Addr::new(127, 0, 0, 10 + n),
        users: users.to_vec(),
        others: others.to_owned(),
        nats: nats.to_owned(),
        stop: stop.clone(),
        world: world.clone(),
    };
    let mut set = JoinSet::new();
    set.spawn(attacker(0).codes());
    set.spawn(attacker(1).guesses());
    set.spawn(attacker(2).lock_out());
    set.spawn(attacker(3).refreshes());
    set.spawn(attacker(4).nearby());
    set.spawn(attacker(5).points());
    set.spawn(attacker(6).searches());
    set.spawn(attacker(7).pings());
    set.spawn(attacker(8).connections());
    set.spawn(attacker(9).bus());
    Attack(set)
}

/// Ticks at [`RATE`] until the attack stops.
struct Pace(tokio::time::Interval, CancellationToken);

impl Pace {
    async fn next(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.1.cancelled() => false,
            _ = self.0.tick() => true,
        }
    }
}

impl Attacker {
    fn pace(&self, rate: u32) -> Pace {
        let mut ticks = interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Pace(ticks, self.stop.clone())
    }

    fn http(&self, pod: usize) -> Http {
        Http::new(self.from, &self.users[pod])
    }

    fn now(&self) -> DateTime<Utc> {
        self.world.now()
    }

    fn phone(&self, n: u64) -> String {
        // Spread over all ranges of ten thousand numbers.
        format!("+1{}{:07}", 718 + u64::from(self.from.octets()[3] % 4), 2_000_000 + (n * 7_919_993) % 8_000_000)
    }

    /// Codes for any number of phones.
    async fn codes(self) -> Result<Tally> {
        let (mut tally, mut pace, mut http) =
            (Tally::of("codes for many phones"), self.pace(RATE), [self.http(0), self.http(1)]);
        while pace.next().await {
            let n = tally.tried;
            let body = json!({"phone": self.phone(n)});
            let answer = http[(n % 2) as usize].call("POST", "/v1/auth/otp", None, &body).await;
            tally.count(matches!(answer, Ok((202, _))));
        }
        Ok(tally)
    }

    /// Guessed codes for any number of phones.
    async fn guesses(self) -> Result<Tally> {
        let (mut tally, mut pace, mut http) =
            (Tally::of("guessed codes"), self.pace(RATE), [self.http(0), self.http(1)]);
        while pace.next().await {
            let n = tally.tried;
            let body = json!({"phone": self.phone(n / 5), "code": format!("{:06}", n * 199_933 % 1_000_000)});
            let answer = http[(n % 2) as usize].call("POST", "/v1/auth/token", None, &body).await;
            tally.count(matches!(answer, Ok((401, _))));
            if matches!(answer, Ok((200, _))) {
                tally.wrong = Some("signed in without the code".to_owned());
            }
        }
        Ok(tally)
    }

    /// Codes and wrong codes for one phone, whose owner then signs in from elsewhere.
    async fn lock_out(self) -> Result<Tally> {
        let (mut tally, mut pace, mut http) = (Tally::of("locking out a phone"), self.pace(RATE), self.http(0));
        while pace.next().await {
            let wrong = json!({"phone": VICTIM, "code": "000000"});
            let (path, body) = if tally.tried % 6 == 0 {
                ("/v1/auth/otp", json!({"phone": VICTIM}))
            } else {
                ("/v1/auth/token", wrong)
            };
            let answer = http.call("POST", path, None, &body).await;
            tally.count(matches!(answer, Ok((202 | 401, _))));
        }
        let mut owner = Http::new(Ipv4Addr::new(127, 0, 0, 200), &self.users[1]);
        if let Err(error) = owner.sign_in(VICTIM).await {
            tally.wrong = Some(format!("the phone's owner cannot sign in: {error:#}"));
        }
        Ok(tally)
    }

    async fn refreshes(self) -> Result<Tally> {
        let (mut tally, mut pace, mut http) = (Tally::of("refreshes"), self.pace(RATE), self.http(0));
        let (_, mut refresh) = http.sign_in(&self.phone(1)).await?;
        while pace.next().await {
            let answer = http.call("POST", "/v1/auth/refresh", None, &json!({"refresh_token": refresh})).await;
            if let Ok((200, tokens)) = &answer {
                refresh = tokens["refresh_token"].as_str().context("no refresh token")?.to_owned();
            }
            tally.count(matches!(answer, Ok((200, _))));
        }
        Ok(tally)
    }

    /// Follows a driver home.
    async fn nearby(self) -> Result<Tally> {
        let (mut tally, mut pace, mut http) = (Tally::of("nearby, again and again"), self.pace(RATE), self.http(0));
        let (token, _) = http.sign_in(&self.phone(2)).await?;
        let mut location = Http::new(self.from, &self.others);
        while pace.next().await {
            let path = "/v1/drivers/nearby?lat=40.7484&lng=-73.9857&limit=100&radius_m=5000";
            let answer = location.call("GET", path, Some(&token), &Value::Null).await;
            tally.count(matches!(answer, Ok((200, _))));
        }
        Ok(tally)
    }

    async fn driver(&self, n: u64) -> Result<String> {
        let mut http = self.http(0);
        let (token, _) = http.sign_in(&self.phone(n)).await?;
        let body = json!({"vehicle_type": "van", "plate": format!("EVIL{}{}", self.from.octets()[3], self.now().timestamp() % 100_000)});
        let (status, answer) = http.call("POST", "/v1/drivers", Some(&token), &body).await?;
        ensure!(status == 201, "no driver: {status} {answer}");
        Ok(token)
    }

    /// A hundred points a frame, as many frames as a socket may send, on five sockets.
    async fn points(self) -> Result<Tally> {
        let mut tally = Tally::of("points");
        let token = self.driver(3).await?;
        let mut pace = self.pace(200);
        let mut sockets: Vec<Option<WebSocket>> = (0..5).map(|_| None).collect();
        while pace.next().await {
            let n = tally.tried;
            let slot = (n % 5) as usize;
            if sockets[slot].is_none() {
                sockets[slot] = WebSocket::open(self.from, &self.users[slot % 2], &token).await.ok();
            }
            let Some(socket) = &mut sockets[slot] else {
                tally.count(false);
                continue;
            };
            let now = self.now();
            let at = |k: i64| (now - chrono::Duration::milliseconds(k * 10)).to_rfc3339();
            let points: Vec<Value> =
                (0..100).map(|k| json!({"location": {"lat": 10.0, "lng": 10.0}, "recorded_at": at(k)})).collect();
            let sent = async {
                socket.send("location.update", &json!({"points": points})).await?;
                socket.answer().await
            };
            let got = sent.await;
            if got.is_err() {
                sockets[slot] = None;
            }
            tally.count(got.unwrap_or(false));
        }
        Ok(tally)
    }

    /// Two searches by turns, so that a driver gets offers without an end.
    async fn searches(self) -> Result<Tally> {
        let (mut tally, mut pace) = (Tally::of("searches moved"), self.pace(RATE));
        let (token, _) = self.http(0).sign_in(&self.phone(4)).await?;
        let mut socket = None;
        while pace.next().await {
            if socket.is_none() {
                socket = WebSocket::open(self.from, &self.users[0], &token).await.ok();
            }
            let Some(open) = &mut socket else {
                tally.count(false);
                continue;
            };
            let lat = 40.7484 + 0.001 * (tally.tried % 2) as f64;
            let data = json!({"active": true, "pickup": {"lat": lat, "lng": -73.9857}, "dropoff": {"lat": 40.8, "lng": -73.9}, "vehicle_type": "van"});
            let sent = async {
                open.send("finder.update", &data).await?;
                open.answer().await
            };
            let got = sent.await;
            if got.is_err() {
                socket = None;
            }
            tally.count(got.unwrap_or(false));
        }
        Ok(tally)
    }

    /// Ping frames, fifty a write.
    async fn pings(self) -> Result<Tally> {
        let (mut tally, mut pace) = (Tally::of("pings, 50 a write"), self.pace(RATE));
        let (token, _) = self.http(1).sign_in(&self.phone(5)).await?;
        let pings = [0x89, 0x80, 0, 0, 0, 0].repeat(50);
        let mut socket: Option<TcpStream> = None;
        let mut sink = vec![0; 65_536];
        while pace.next().await {
            if socket.is_none() {
                let open = WebSocket::open(self.from, &self.users[1], &token).await;
                socket = open.ok().map(|open| open.0.into_inner());
            }
            let Some(open) = &mut socket else {
                tally.count(false);
                continue;
            };
            let written = matches!(timeout(Duration::from_secs(1), open.write_all(&pings)).await, Ok(Ok(())));
            let closed = matches!(timeout(Duration::from_millis(1), open.read(&mut sink)).await, Ok(Ok(0) | Err(_)));
            tally.count(written && !closed);
            if !written || closed {
                socket = None;
            }
        }
        Ok(tally)
    }

    /// Connections that are held without a request.
    async fn connections(self) -> Result<Tally> {
        let (mut tally, mut pace) = (Tally::of("connections held"), self.pace(RATE));
        let mut held = Vec::new();
        while pace.next().await {
            if held.len() >= CONNECTIONS {
                held.clear();
            }
            match tcp(self.from, &self.users[held.len() % 2]).await {
                Ok(mut connection) => {
                    let begun = connection.write_all(b"G").await.is_ok();
                    // A connection that is refused is closed at once.
                    let mut byte = [0];
                    let closed = matches!(
                        timeout(Duration::from_millis(2), connection.read(&mut byte)).await,
                        Ok(Ok(0) | Err(_))
                    );
                    tally.count(begun && !closed);
                    held.push(connection);
                }
                Err(_) => tally.count(false),
            }
        }
        Ok(tally)
    }

    /// Watches the whole bus, and publishes headers that are no headers, times of 2090 and forged wake-ups.
    async fn bus(self) -> Result<Tally> {
        let mut tally = Tally::of("bus: watching and forging");
        let address = self.nats.trim_start_matches("nats://").to_owned();
        let mut connection = TcpStream::connect(&address).await?;
        connection
            .write_all(b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB > 1\r\nSUB _INBOX.> 2\r\nPING\r\n")
            .await?;
        let (mut from, mut to) = connection.into_split();
        let reader = tokio::spawn(async move {
            let mut sink = vec![0; 65_536];
            while matches!(from.read(&mut sink).await, Ok(read) if read > 0) {}
        });
        let nobody = "0190b7a0-0000-7000-8000-000000000009";
        let beacon = |at: &str| {
            let location = json!({"lat": 1.0, "lng": 1.0});
            json!({"user_id": nobody, "active": false, "vehicle_type": "car", "location": location, "recorded_at": at})
                .to_string()
        };
        while !self.stop.is_cancelled() {
            let mut bytes = Vec::new();
            let body = beacon(&self.now().to_rfc3339());
            let header = b"NATS/1.0\r\nx-city: Z\xfcrich\r\n\r\n";
            bytes.extend(format!("HPUB user.beacon {} {}\r\n", header.len(), header.len() + body.len()).bytes());
            bytes.extend(header);
            bytes.extend(format!("{body}\r\n").bytes());
            let late = beacon("2090-01-01T00:00:00Z");
            bytes.extend(format!("PUB user.beacon {}\r\n{late}\r\n", late.len()).bytes());
            let wake_up =
                json!({"type": "x", "seq": u64::MAX / 2, "event_id": "f", "time": self.now().to_rfc3339(), "data": {}})
                    .to_string();
            bytes.extend(
                format!("PUB users.session.{nobody}.notify {}\r\n{wake_up}\r\nPONG\r\n", wake_up.len()).bytes(),
            );
            tally.count(to.write_all(&bytes).await.is_ok());
            sleep(Duration::from_secs(10)).await;
        }
        reader.abort();
        Ok(tally)
    }
}
