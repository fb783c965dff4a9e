//! Latencies of a match and of a pickup, at a steady rate of arrivals that does not wait for the answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use platform::World;
use serde_json::{Value, json};
use simulator::load::Receiver;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{Connected, Row, percentiles, place, row};

/// Frames that wait to be looked at.
const FRAMES_MAX: usize = 65_536;

/// Who got what, when.
type Heard = (Arc<str>, Instant, Value);

/// Everybody's frames.
pub(crate) struct Inbox {
    to: mpsc::Sender<Heard>,
    from: Mutex<Option<mpsc::Receiver<Heard>>>,
}

impl Inbox {
    pub(crate) fn new(receivers: Vec<(String, Receiver)>) -> Self {
        let (to, from) = mpsc::channel(FRAMES_MAX);
        let inbox = Self { to, from: Mutex::new(Some(from)) };
        inbox.add(receivers);
        inbox
    }

    pub(crate) fn add(&self, receivers: Vec<(String, Receiver)>) {
        for (id, mut receiver) in receivers {
            let (to, id) = (self.to.clone(), Arc::<str>::from(id));
            tokio::spawn(async move {
                while let Some(frame) = receiver.next().await {
                    // Never blocks the socket: a frame that finds no place is not measured.
                    let _ = to.try_send((id.clone(), Instant::now(), frame));
                }
            });
        }
    }
}

#[derive(Default)]
struct Seen {
    requested: BTreeMap<String, Instant>,
    found_ms: Vec<f64>,
    accepted: BTreeMap<String, (Instant, u8)>,
    pickup_ms: Vec<f64>,
    refused: u64,
}

/// What becomes of an offer: the passenger ends the search, or the driver takes it and then cancels the ride.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    EndSearch,
    TakeAndCancel,
}

/// The rows for matches and pickups.
pub(crate) async fn measure(
    world: &World,
    drivers: &[Connected],
    passengers: &[Connected],
    inbox: &Inbox,
    length: Duration,
    wanted: &impl Fn(&str) -> bool,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let taken = inbox.from.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut frames) = taken else { return Ok(rows) };
    for (rate, then) in [
        (100, Then::EndSearch),
        (250, Then::EndSearch),
        (500, Then::EndSearch),
        (100, Then::TakeAndCancel),
        (250, Then::TakeAndCancel),
    ] {
        let name = if then == Then::EndSearch { "match" } else { "accept" };
        if !wanted(name) {
            continue;
        }
        eprintln!("{name}: {rate}/s, {} s …", length.as_secs());
        let (seen, sent) = drive(world, drivers, passengers, &mut frames, length, rate, then).await?;
        let (mut values, what, mark) = match then {
            Then::EndSearch => (seen.found_ms, "finder.update to match.found", "p99 100 ms, 500/s"),
            Then::TakeAndCancel => (seen.pickup_ms, "match.accept to ride.pickup on both", "p99 100 ms at 100/s"),
        };
        let count = values.len();
        let (p50, p99) = percentiles(&mut values);
        let reached = format!("p50 {p50:.1} p99 {p99:.1} ms, {:.0}/s", count as f64 / length.as_secs_f64());
        rows.push(row(format!("{what}, {rate}/s offered ({count} of {sent})"), reached, mark, "–"));
        if seen.refused > 0 {
            eprintln!("  {} commands were refused", seen.refused);
        }
    }
    Ok(rows)
}

async fn drive(
    world: &World,
    drivers: &[Connected],
    passengers: &[Connected],
    frames: &mut mpsc::Receiver<Heard>,
    length: Duration,
    rate: u32,
    then: Then,
) -> Result<(Seen, u64)> {
    let mut seen = Seen::default();
    let people: BTreeMap<&str, &Connected> = drivers.iter().chain(passengers).map(|c| (c.id.as_str(), c)).collect();
    let mut idle: VecDeque<&Connected> = passengers.iter().collect();
    let mut beat = interval(Duration::from_secs(1) / rate);
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let until = Instant::now() + length;
    let mut sent = 0;
    while Instant::now() < until {
        tokio::select! {
            biased;
            _ = beat.tick() => {
                let Some(passenger) = idle.pop_front() else { continue };
                let n = world.below(1_000) as usize;
                let data = json!({
                    "active": true, "pickup": place(n), "dropoff": place(n + 7), "vehicle_type": "car",
                });
                seen.requested.insert(passenger.id.clone(), Instant::now());
                passenger.sender.lock().await.send(Some("f"), "finder.update", &data).await?;
                sent += 1;
            }
            Some((id, at, frame)) = frames.recv() => {
                if let Some(free) = look(&mut seen, &people, &id, at, &frame, then).await? {
                    idle.push_back(free);
                }
            }
        }
    }
    // What is under way comes to its end before the next measurement begins.
    while let Ok(Some((id, at, frame))) = timeout(Duration::from_secs(2), frames.recv()).await {
        look(&mut seen, &people, &id, at, &frame, then).await?;
    }
    Ok((seen, sent))
}

/// Takes note of a frame and sends what follows from it; the passenger who is free again by it.
async fn look<'a>(
    seen: &mut Seen,
    people: &BTreeMap<&str, &'a Connected>,
    id: &str,
    at: Instant,
    frame: &Value,
    then: Then,
) -> Result<Option<&'a Connected>> {
    let data = &frame["data"];
    let text = |field: &str| data[field].as_str().unwrap_or_default().to_owned();
    let (driver, passenger) = (text("driver_id"), text("passenger_id"));
    let millis = |from: Instant| at.duration_since(from).as_secs_f64() * 1_000.0;
    match frame["type"].as_str().unwrap_or_default() {
        "error" => seen.refused += 1,
        "match.found" if id == driver => {
            if let Some(from) = seen.requested.remove(&passenger) {
                seen.found_ms.push(millis(from));
            }
            match then {
                Then::EndSearch => {
                    if let Some(c) = people.get(passenger.as_str()) {
                        c.sender.lock().await.send(Some("e"), "finder.update", &json!({"active": false})).await?;
                    }
                }
                Then::TakeAndCancel => {
                    seen.accepted.insert(text("match_id"), (Instant::now(), 0));
                    if let Some(c) = people.get(driver.as_str()) {
                        let data = json!({"match_id": text("match_id")});
                        c.sender.lock().await.send(Some("a"), "match.accept", &data).await?;
                    }
                }
            }
        }
        "match.rejected" if id == passenger => return Ok(people.get(passenger.as_str()).copied()),
        "ride.pickup" => {
            if let Some((from, count)) = seen.accepted.get_mut(&text("match_id")) {
                *count += 1;
                if *count == 2 {
                    seen.pickup_ms.push(at.duration_since(*from).as_secs_f64() * 1_000.0);
                    if let Some(c) = people.get(driver.as_str()) {
                        let data = json!({"ride_id": text("ride_id"), "reason": "bench"});
                        c.sender.lock().await.send(Some("c"), "ride.cancel", &data).await?;
                    }
                }
            }
        }
        "ride.cancelled" if id == passenger => return Ok(people.get(passenger.as_str()).copied()),
        _ => {}
    }
    Ok(None)
}
