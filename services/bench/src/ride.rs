//! Latencies of a match and of a pickup, at a steady rate of requests that does not wait for answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use platform::World;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::table::{Row, percentiles, row};
use crate::target::{Client, Frames, Target, place};

/// Frames that wait to be read.
const FRAMES_MAX: usize = 65_536;

/// A frame, who received it, and when.
type Received = (Arc<str>, Instant, Value);

/// The frames of all clients, in one queue.
pub(crate) struct Inbox {
    to: mpsc::Sender<Received>,
    from: mpsc::Receiver<Received>,
}

impl Inbox {
    pub(crate) fn new(frames: Frames) -> Self {
        let (to, from) = mpsc::channel(FRAMES_MAX);
        let inbox = Self { to, from };
        inbox.add(frames);
        inbox
    }

    pub(crate) fn add(&self, frames: Frames) {
        for (id, mut receiver) in frames {
            let (to, id) = (self.to.clone(), Arc::<str>::from(id));
            tokio::spawn(async move {
                while let Some(frame) = receiver.next().await {
                    // Never blocks the socket: a frame that finds the queue full is not measured.
                    let _ = to.try_send((id.clone(), Instant::now(), frame));
                }
            });
        }
    }
}

/// What the clients do with an offer.
#[derive(Clone, Copy, PartialEq)]
enum Scenario {
    /// The passenger ends the search.
    EndSearch,
    /// The driver accepts the offer, and cancels the ride.
    AcceptAndCancel,
}

#[derive(Default)]
struct Latencies {
    /// When each passenger's request was sent, until its offer has come.
    requested: BTreeMap<String, Instant>,
    found_ms: Vec<f64>,
    /// When each offer was accepted, and how many of its two parties have received the pickup.
    accepted: BTreeMap<String, (Instant, u8)>,
    pickup_ms: Vec<f64>,
    refused: u64,
}

/// The rows for matches and pickups.
pub(crate) async fn measure(
    target: &Target,
    world: &World,
    drivers: &[Client],
    passengers: &[Client],
    mut inbox: Inbox,
    length: Duration,
    wants: impl Fn(&str, u32) -> bool,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (rate, scenario) in [
        (100, Scenario::EndSearch),
        (250, Scenario::EndSearch),
        (500, Scenario::EndSearch),
        (1_000, Scenario::EndSearch),
        (2_000, Scenario::EndSearch),
        (100, Scenario::AcceptAndCancel),
        (250, Scenario::AcceptAndCancel),
    ] {
        let name = if scenario == Scenario::EndSearch { "match" } else { "accept" };
        if !wants(name, rate) {
            continue;
        }
        eprintln!("{name}: {rate}/s, {} s …", length.as_secs());
        let load = Load { world, drivers, passengers, length, rate, scenario };
        let cpu_before = target.cpu_seconds().await?;
        let (latencies, sent) = load.run(&mut inbox.from).await?;
        let cpu_s = target.cpu_seconds().await? - cpu_before;
        let (mut values, what, mark) = match scenario {
            Scenario::EndSearch => (latencies.found_ms, "finder.update to match.found", "2,000/s; p99 20 ms at 500/s"),
            Scenario::AcceptAndCancel => {
                (latencies.pickup_ms, "match.accept to ride.pickup on both", "p99 100 ms at 100/s")
            }
        };
        let count = values.len();
        let (p50, p99) = percentiles(&mut values);
        let reached = format!("p50 {p50:.1} p99 {p99:.1} ms, {:.0}/s", count as f64 / length.as_secs_f64());
        rows.push(row(format!("{what}, {rate}/s offered ({count} of {sent})"), reached, mark, "–"));
        let cpu = format!("{:.2} ms", cpu_s * 1_000.0 / count as f64);
        rows.push(row("  CPU time of the platform for each, to its end", cpu, "–", "–"));
        if latencies.refused > 0 {
            eprintln!("  {} commands were refused", latencies.refused);
        }
    }
    Ok(rows)
}

/// One measurement.
struct Load<'a> {
    world: &'a World,
    drivers: &'a [Client],
    passengers: &'a [Client],
    length: Duration,
    /// Requests a second.
    rate: u32,
    scenario: Scenario,
}

impl<'a> Load<'a> {
    /// Sends requests for `length`; the latencies, and how many were sent.
    async fn run(&self, frames: &mut mpsc::Receiver<Received>) -> Result<(Latencies, u64)> {
        let mut latencies = Latencies::default();
        let clients: BTreeMap<&str, &Client> =
            self.drivers.iter().chain(self.passengers).map(|c| (c.id.as_str(), c)).collect();
        let mut idle: VecDeque<&Client> = self.passengers.iter().collect();
        let mut beat = interval(Duration::from_secs(1) / self.rate);
        beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let until = Instant::now() + self.length;
        let mut sent = 0;
        while Instant::now() < until {
            tokio::select! {
                biased;
                _ = beat.tick() => {
                    let Some(passenger) = idle.pop_front() else { continue };
                    let n = self.world.below(1_000) as usize;
                    let data = json!({
                        "active": true, "pickup": place(n), "dropoff": place(n + 7), "vehicle_type": "car",
                    });
                    latencies.requested.insert(passenger.id.clone(), Instant::now());
                    passenger.send(Some("f"), "finder.update", &data).await?;
                    sent += 1;
                }
                Some(received) = frames.recv() => {
                    if let Some(passenger) = self.on_frame(&mut latencies, &clients, &received).await? {
                        idle.push_back(passenger);
                    }
                }
            }
        }
        // Offers and rides under way end before the next measurement begins.
        while let Ok(Some(received)) = timeout(Duration::from_secs(2), frames.recv()).await {
            self.on_frame(&mut latencies, &clients, &received).await?;
        }
        Ok((latencies, sent))
    }

    /// Records what a frame says and sends the command that follows; returns the passenger who may search again.
    async fn on_frame(
        &self,
        latencies: &mut Latencies,
        clients: &BTreeMap<&str, &'a Client>,
        (id, at, frame): &Received,
    ) -> Result<Option<&'a Client>> {
        let data = &frame["data"];
        let text = |field: &str| data[field].as_str().unwrap_or_default().to_owned();
        let (driver, passenger) = (text("driver_id"), text("passenger_id"));
        let client = |id: &str| clients.get(id).copied();
        let millis_since = |from: Instant| at.duration_since(from).as_secs_f64() * 1_000.0;
        match frame["type"].as_str().unwrap_or_default() {
            "error" => latencies.refused += 1,
            "match.found" if **id == *driver => {
                if let Some(from) = latencies.requested.remove(&passenger) {
                    latencies.found_ms.push(millis_since(from));
                }
                match self.scenario {
                    Scenario::EndSearch => {
                        if let Some(passenger) = client(&passenger) {
                            passenger.send(Some("e"), "finder.update", &json!({"active": false})).await?;
                        }
                    }
                    Scenario::AcceptAndCancel => {
                        latencies.accepted.insert(text("match_id"), (Instant::now(), 0));
                        if let Some(driver) = client(&driver) {
                            driver.send(Some("a"), "match.accept", &json!({"match_id": text("match_id")})).await?;
                        }
                    }
                }
            }
            "ride.pickup" => {
                if let Some((from, parties)) = latencies.accepted.get_mut(&text("match_id")) {
                    *parties += 1;
                    if *parties == 2 {
                        latencies.pickup_ms.push(millis_since(*from));
                        if let Some(driver) = client(&driver) {
                            let data = json!({"ride_id": text("ride_id"), "reason": "bench"});
                            driver.send(Some("c"), "ride.cancel", &data).await?;
                        }
                    }
                }
            }
            "match.rejected" | "ride.cancelled" if **id == *passenger => return Ok(client(&passenger)),
            _ => {}
        }
        Ok(None)
    }
}
