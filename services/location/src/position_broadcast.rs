//! Makes `nearby` the same in every process of location. The consumers are shared, so each position is delivered to one
//! process; that process forwards it to the others on a core subject.
//!
//! A core message may be lost. That does no harm: the driver's next point comes within seconds, beacons are read from their rows
//! every 5 s, and tracks use rows only.
//! On the memory bus there is one process, and nothing is sent. On NATS each process says every 5 s that it is there, and a process that
//! knows of no other one for 20 s sends no positions.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use platform::api::Schemas;
use platform::{CancellationToken, Platform, Received, World, retry};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use streams::event::{LocationUpdate, UserBeacon};
use streams::{Bus, Event};

use tokio::time::{MissedTickBehavior, interval};

use crate::cache::Cache;

/// A core subject: no stream captures it.
const SUBJECT: &str = "location.service.heard";
/// How often a process says that it is there.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(5);
/// Others that are silent for so long are gone.
const SILENCE_MAX: chrono::Duration = chrono::Duration::seconds(20);

/// Sends positions to the other processes.
#[derive(Debug)]
pub(crate) struct PositionBroadcast {
    bus: Bus,
    pod: Arc<str>,
    world: World,
    cache: Arc<Cache>,
}

#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "PositionBroadcast")]
struct Outgoing<'a> {
    updates: Vec<&'a LocationUpdate>,
    beacons: Vec<&'a UserBeacon>,
    needed_up_to: u64,
    #[serde(skip_serializing_if = "is_zero")]
    needed_at_once: u64,
}

/// The schema of a message: text of two lines.
pub(crate) fn body(schemas: &mut Schemas) -> serde_json::Value {
    serde_json::json!({
        "type": "string",
        "description": "The id of the process, a line feed, and JSON; without the JSON it says that the process is there.",
        "x-second-line": schemas.written::<Outgoing<'_>>(),
    })
}

fn is_zero(sequence: &u64) -> bool {
    *sequence == 0
}

#[derive(Deserialize)]
struct Incoming {
    updates: Vec<LocationUpdate>,
    beacons: Vec<UserBeacon>,
    /// Points of the stream up to this sequence should become rows soon; 0 if none. A process of the version before does not say it.
    #[serde(default)]
    needed_up_to: u64,
    /// The same at once, for a cancelled ride.
    #[serde(default)]
    needed_at_once: u64,
}

impl PositionBroadcast {
    pub(crate) fn new(platform: &Platform, cache: &Arc<Cache>) -> Self {
        let (bus, pod, world) = (platform.bus.clone(), platform.pod.clone(), platform.world.clone());
        Self { bus, pod, world, cache: cache.clone() }
    }

    fn has_others(&self) -> bool {
        let seen_at = *self.cache.others_seen_at();
        seen_at.is_some_and(|at| self.world.now() - at < SILENCE_MAX)
    }

    /// Sends the positions of a batch. A failure is logged and nothing more.
    pub(crate) async fn send(&self, batch: &[&Received]) {
        if !self.has_others() {
            return;
        }
        let mut outgoing = Outgoing::default();
        for received in batch {
            match &received.event {
                Event::LocationUpdate(update) => outgoing.updates.push(update),
                Event::UserBeacon(beacon) => outgoing.beacons.push(beacon),
                _ => {}
            }
        }
        if !outgoing.updates.is_empty() || !outgoing.beacons.is_empty() {
            self.publish(&outgoing).await;
        }
    }

    /// Tells the others that a ride waits for points up to this sequence. If that is lost, the points wait no longer than they may.
    pub(crate) async fn send_needed(&self, needed_up_to: u64) {
        if self.has_others() {
            self.publish(&Outgoing { needed_up_to, ..Outgoing::default() }).await;
        }
    }

    /// Tells the others that a client waits until the points up to this sequence are rows.
    pub(crate) async fn send_needed_at_once(&self, needed_at_once: u64) {
        if self.has_others() {
            self.publish(&Outgoing { needed_at_once, ..Outgoing::default() }).await;
        }
    }

    /// Tells the others that this process is there.
    async fn send_presence(&self) {
        self.publish(&Outgoing::default()).await;
    }

    async fn publish(&self, outgoing: &Outgoing<'_>) {
        // The pod comes before the JSON, so that a process skips its own messages without parsing them.
        let mut payload = format!("{}\n", self.pod).into_bytes();
        serde_json::to_writer(&mut payload, outgoing).expect("events have string keys and no failing serializer");
        if let Err(error) = self.bus.publish_core(SUBJECT, payload.into()).await {
            tracing::debug!(%error, "positions were not sent to the other location processes");
        }
    }
}

/// Applies the positions of other processes to the cache, until `stop`.
pub(crate) async fn receive(platform: Platform, cache: Arc<Cache>, stop: CancellationToken) {
    if !platform.bus.is_shared() {
        stop.cancelled().await;
        return;
    }
    let mut delays = retry::dependency();
    let mut presence = interval(PRESENCE_INTERVAL);
    presence.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let broadcast = PositionBroadcast::new(&platform, &cache);
    loop {
        match platform.bus.subscribe(SUBJECT, None).await {
            Ok(mut subscription) => loop {
                let message = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    _ = presence.tick() => {
                        broadcast.send_presence().await;
                        continue;
                    }
                    message = subscription.next() => message,
                };
                let Some(message) = message else { break };
                delays.reset();
                let knew_others = broadcast.has_others();
                apply(&cache, &platform.pod, &message.payload, platform.world.now());
                if !knew_others && broadcast.has_others() {
                    // A process that has just started should not wait for the next time.
                    broadcast.send_presence().await;
                }
            },
            Err(error) => tracing::warn!(%error, "cannot subscribe to the positions of other location processes"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delays.next_delay()) => {}
        }
    }
}

fn apply(cache: &Cache, own_pod: &str, payload: &[u8], now: DateTime<Utc>) {
    let Some(end) = payload.iter().position(|byte| *byte == b'\n') else { return };
    let (pod, body) = payload.split_at(end);
    if pod == own_pod.as_bytes() {
        return;
    }
    *cache.others_seen_at() = Some(now);
    let incoming: Incoming = match serde_json::from_slice(body) {
        Ok(incoming) => incoming,
        Err(error) => {
            tracing::debug!(%error, "a message of another location process is no list of positions");
            return;
        }
    };
    if incoming.needed_up_to > 0 {
        cache.arrived_rides().set_needed_elsewhere(incoming.needed_up_to, now);
    }
    if incoming.needed_at_once > 0 {
        cache.arrived_rides().set_needed_at_once(incoming.needed_at_once, now);
    }
    let mut positions = cache.positions();
    for update in incoming.updates.iter().filter(|u| u.location.is_valid()) {
        positions.record_update(update, now);
    }
    for beacon in incoming.beacons.iter().filter(|b| b.location.is_valid()) {
        positions.record_beacon(beacon, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_hears_what_rides_of_others_need_and_understands_the_version_before() {
        let cache = Cache::default();
        let needed = |payload: &str| {
            apply(&cache, "own", payload.as_bytes(), DateTime::UNIX_EPOCH);
            cache.arrived_rides().needed_up_to(DateTime::UNIX_EPOCH)
        };
        assert_eq!(needed("own\n{\"updates\":[],\"beacons\":[],\"needed_up_to\":7}"), 0, "its own message");
        assert_eq!(needed("other\n{\"updates\":[],\"beacons\":[],\"needed_up_to\":7}"), 7);
        assert_eq!(needed("other\n{\"updates\":[],\"beacons\":[]}"), 7, "from the version before");
        // The stream was made again, and counts from 1.
        assert_eq!(needed("other\n{\"updates\":[],\"beacons\":[],\"needed_up_to\":3}"), 3);
    }
}
