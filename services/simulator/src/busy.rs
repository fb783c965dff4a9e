//! People who are as busy as the platform lets them, for measurements of throughput: each has one command under way, and begins the next
//! when that is answered. They live in towns, each out of reach of the others.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::load::{Receiver, Sender, people_over};
use crate::position::Position;
use crate::transport::Transport;

/// So many, whatever the number of people.
const TOWNS: usize = 64;
const TOWNS_A_ROW: usize = 8;
/// The distance of two towns, in degrees: some 11 km.
const TOWN_LAT: f64 = 0.1;
const TOWN_LNG: f64 = 0.13;
/// The middle of the first town.
const FIRST: Position = Position { lat: 40.0, lng: -74.0 };
/// People live within so many degrees of the middle.
const NEAR: f64 = 0.01;
/// People begin within this time.
const BEGIN_MAX: Duration = Duration::from_secs(1);
/// The pause between two positions of a driver.
const POSITION_PAUSE: Duration = Duration::from_millis(50);
/// The pause after a command that was refused, because the platform is too busy.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Somebody who waits longer for a frame begins again.
const PATIENCE: Duration = Duration::from_secs(30);

/// What people do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Passengers search, drivers accept, and when the ride has begun the passenger cancels it and searches again.
    Matches,
    /// Drivers without a ride send positions.
    Positions,
}

/// How many people there are, and where they connect.
#[derive(Debug, Clone)]
pub struct Population {
    pub transport: Transport,
    /// The processes of users.
    pub urls: Vec<String>,
    /// Gives them phone numbers of their own.
    pub run_id: u64,
    /// For each of the processes.
    pub passengers: usize,
    pub drivers: usize,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Counts {
    matches: AtomicU64,
    acked: AtomicU64,
    refused: AtomicU64,
}

impl Counts {
    /// Matches that became rides.
    pub fn matches(&self) -> u64 {
        self.matches.load(Ordering::Relaxed)
    }

    /// Commands that were acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Called with the number of the process for each frame that somebody sends or receives.
pub type OnFrame = dyn Fn(usize) + Send + Sync;
/// The time for the positions of drivers.
pub type Now = dyn Fn() -> DateTime<Utc> + Send + Sync;

/// Signed in and connected, the drivers on duty.
pub struct BusyPeople {
    drivers: Vec<Client>,
    passengers: Vec<Client>,
    rng: StdRng,
    counts: Arc<Counts>,
}

impl fmt::Debug for BusyPeople {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (drivers, passengers) = (self.drivers.len(), self.passengers.len());
        f.debug_struct("BusyPeople").field("drivers", &drivers).field("passengers", &passengers).finish()
    }
}

struct Client {
    sender: Sender,
    receiver: Receiver,
    /// The number of the process that it is connected to.
    process: usize,
    on_frame: Arc<OnFrame>,
    counts: Arc<Counts>,
    home: Position,
    dropoff: Position,
}

impl BusyPeople {
    /// Signs everybody in, connects them, and puts the drivers on duty.
    ///
    /// # Errors
    /// The first sign-in or connection that fails.
    pub async fn sign_in(population: &Population, on_frame: Arc<OnFrame>) -> Result<Self> {
        let Population { transport, urls, run_id, passengers, drivers } = population;
        let (mut rng, counts) = (StdRng::seed_from_u64(*run_id), Arc::new(Counts::default()));
        let (mut all_drivers, mut all_passengers) = (Vec::new(), Vec::new());
        for (process, url) in urls.iter().enumerate() {
            let first = process * (drivers + passengers);
            for (first, count, plate, all) in [
                (first, *drivers, Some("S"), &mut all_drivers),
                (first + drivers, *passengers, None, &mut all_passengers),
            ] {
                let people = people_over(transport, url, *run_id, first, count, plate).await?;
                for (n, person) in people.into_iter().enumerate() {
                    let (sender, receiver) = person.connect().await?;
                    let town = (first + n) % TOWNS;
                    let (home, dropoff) = (in_town(town, &mut rng), in_town(town, &mut rng));
                    let (on_frame, counts) = (on_frame.clone(), counts.clone());
                    all.push(Client { sender, receiver, process, on_frame, counts, home, dropoff });
                }
            }
        }
        for driver in &mut all_drivers {
            driver.send("beacon.update", &json!({"active": true, "location": place(&driver.home)})).await?;
            driver.until_answered().await.context("a beacon is not answered")?;
        }
        Ok(Self { drivers: all_drivers, passengers: all_passengers, rng, counts })
    }

    /// Has them begin, in `tasks` that end with their connections only.
    pub fn start(mut self, workload: Workload, now: Arc<Now>, tasks: &mut JoinSet<()>) -> Arc<Counts> {
        let mut begin = || BEGIN_MAX.mul_f64(self.rng.random());
        for passenger in self.passengers {
            let begin = begin();
            if workload == Workload::Matches {
                tasks.spawn(async move {
                    sleep(begin).await;
                    let _ = passenger.search().await;
                });
            }
        }
        for driver in self.drivers {
            let (begin, now) = (begin(), now.clone());
            tasks.spawn(async move {
                let _ = match workload {
                    Workload::Matches => driver.accept().await,
                    Workload::Positions => {
                        sleep(begin).await;
                        driver.drive(now).await
                    }
                };
            });
        }
        self.counts
    }
}

impl Client {
    async fn send(&mut self, kind: &str, data: &Value) -> Result<()> {
        (self.on_frame)(self.process);
        self.sender.send(Some("c"), kind, data).await
    }

    /// The type and the data of the next frame; `None` if none comes for a while.
    async fn next(&mut self) -> Result<Option<(String, Value)>> {
        let Ok(frame) = timeout(PATIENCE, self.receiver.next()).await else { return Ok(None) };
        let mut frame = frame.context("the connection has ended")?;
        (self.on_frame)(self.process);
        let kind = frame["type"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "ack" => _ = self.counts.acked.fetch_add(1, Ordering::Relaxed),
            "error" => _ = self.counts.refused.fetch_add(1, Ordering::Relaxed),
            _ => {}
        }
        Ok(Some((kind, frame["data"].take())))
    }

    /// Waits for the answer to a command.
    async fn until_answered(&mut self) -> Result<()> {
        while let Some((kind, _)) = self.next().await? {
            if kind == "ack" || kind == "error" {
                break;
            }
        }
        Ok(())
    }

    async fn search(mut self) -> Result<()> {
        let (pickup, dropoff) = (place(&self.home), place(&self.dropoff));
        let trip = json!({"active": true, "pickup": pickup, "dropoff": dropoff, "vehicle_type": "car"});
        // Of the last ride; after a refusal nobody knows whether it is over, and the two are tried in turn.
        let (mut cancel, mut is_in_ride) = (Value::Null, false);
        loop {
            let (command, data) = if is_in_ride { ("ride.cancel", &cancel) } else { ("finder.update", &trip) };
            self.send(command, data).await?;
            while let Some((kind, data)) = self.next().await? {
                match kind.as_str() {
                    "ride.pickup" => {
                        (cancel, is_in_ride) = (json!({"ride_id": data["ride_id"], "reason": "measured"}), true);
                        break;
                    }
                    "ride.cancelled" => {
                        is_in_ride = false;
                        break;
                    }
                    "error" => {
                        sleep(REFUSED_PAUSE).await;
                        is_in_ride = !is_in_ride && !cancel.is_null();
                        break;
                    }
                    _ => {}
                }
            }
        }
    }

    async fn accept(mut self) -> Result<()> {
        loop {
            let Some((kind, data)) = self.next().await? else { continue };
            match kind.as_str() {
                "match.found" => self.send("match.accept", &json!({"match_id": data["match_id"]})).await?,
                "ride.pickup" => _ = self.counts.matches.fetch_add(1, Ordering::Relaxed),
                _ => {}
            }
        }
    }

    async fn drive(mut self, now: Arc<Now>) -> Result<()> {
        let mut step = 0;
        loop {
            // Back and forth by 20 m: no beacon follows.
            step = (step + 1) % 20;
            let at = Position { lat: self.home.lat + f64::from(step) * 1e-5, ..self.home };
            let data = json!({"location": place(&at), "accuracy_m": 5.0, "recorded_at": now().to_rfc3339()});
            self.send("location.update", &data).await?;
            self.until_answered().await?;
            sleep(POSITION_PAUSE).await;
        }
    }
}

fn place(position: &Position) -> Value {
    json!({"lat": position.lat, "lng": position.lng})
}

fn in_town(town: usize, rng: &mut StdRng) -> Position {
    let (row, column) = ((town / TOWNS_A_ROW) as f64, (town % TOWNS_A_ROW) as f64);
    let mut near = || rng.random_range(-NEAR..NEAR);
    Position { lat: FIRST.lat + TOWN_LAT * row + near(), lng: FIRST.lng + TOWN_LNG * column + near() }
}
