//! What makes `nearby` the same in every location process: the durables are shared, so each position reaches one process,
//! and that tells the others on a core subject.
//!
//! A hint, lost without harm: the next point of a driver is seconds away. Tracks never rest on it. On the memory bus there
//! is one process, and nobody to tell.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use platform::{CancellationToken, Platform, Received, retry};
use serde::{Deserialize, Serialize};
use streams::event::{LocationUpdate, UserBeacon};
use streams::{Bus, Event};

use crate::Location;

/// Core messages only: no stream captures it.
const SUBJECT: &str = "location.service.heard";

/// Tells other processes what this one heard.
#[derive(Debug)]
pub(crate) struct Share {
    bus: Bus,
    pod: Arc<str>,
}

#[derive(Serialize)]
struct Heard<'a> {
    updates: Vec<&'a LocationUpdate>,
    beacons: Vec<&'a UserBeacon>,
}

#[derive(Deserialize)]
struct HeardElsewhere {
    updates: Vec<LocationUpdate>,
    beacons: Vec<UserBeacon>,
}

impl Share {
    pub(crate) fn new(platform: &Platform) -> Self {
        Self { bus: platform.bus.clone(), pod: platform.pod.clone() }
    }

    /// Tells of a batch; if the bus is away, nobody is told.
    pub(crate) async fn send(&self, batch: &[&Received]) {
        if matches!(self.bus, Bus::Memory(_)) {
            return;
        }
        let mut heard = Heard { updates: Vec::new(), beacons: Vec::new() };
        for received in batch {
            match &received.event {
                Event::LocationUpdate(update) => heard.updates.push(update),
                Event::UserBeacon(beacon) => heard.beacons.push(beacon),
                _ => {}
            }
        }
        if heard.updates.is_empty() && heard.beacons.is_empty() {
            return;
        }
        // The pod stands before the JSON, so that this process can pass over its own word without reading it.
        let mut payload = format!("{}\n", self.pod).into_bytes();
        serde_json::to_writer(&mut payload, &heard).expect("events have string keys and no failing serializer");
        if let Err(error) = self.bus.publish_core(SUBJECT, payload.into()).await {
            tracing::debug!(%error, "other location processes were not told of positions");
        }
    }
}

/// Takes in what other processes heard, until `stop` has begun.
pub(crate) async fn listen(location: Location, stop: CancellationToken) {
    if matches!(location.platform.bus, Bus::Memory(_)) {
        stop.cancelled().await;
        return;
    }
    let mut delays = retry::dependency();
    loop {
        match location.platform.bus.subscribe(SUBJECT, None).await {
            Ok(mut subscription) => loop {
                let message = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    message = subscription.next() => message,
                };
                let Some(message) = message else { break };
                delays.reset();
                take_in(&location, &message.payload, location.platform.world.now());
            },
            Err(error) => tracing::warn!(%error, "positions of other location processes cannot be heard"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delays.next_delay()) => {}
        }
    }
}

fn take_in(location: &Location, payload: &[u8], now: DateTime<Utc>) {
    let Some(end) = payload.iter().position(|byte| *byte == b'\n') else { return };
    let (pod, body) = payload.split_at(end);
    if pod == location.platform.pod.as_bytes() {
        return;
    }
    let heard: HeardElsewhere = match serde_json::from_slice(body) {
        Ok(heard) => heard,
        Err(error) => {
            tracing::debug!(%error, "not a list of positions");
            return;
        }
    };
    let mut positions = location.positions();
    for update in heard.updates.iter().filter(|u| u.location.is_valid()) {
        positions.hear_update(update, now);
    }
    for beacon in heard.beacons.iter().filter(|b| b.location.is_valid()) {
        positions.hear_beacon(beacon, now);
    }
}
