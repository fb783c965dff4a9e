//! What the processes of location say to each other, on core subjects: that they are there, positions for the owner of their zone, drivers
//! who came into another zone, and what rides need.
//!
//! A core message may be lost. That does no harm: the driver's next point comes within seconds, beacons are read from their rows every 5 s,
//! the places of drivers who are silent once a minute, and tracks use rows only.
//! On the memory bus there is one process, and nothing is sent. On NATS each process says every 5 s that it is there, and a process that
//! knows of no other one sends no positions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use platform::api::Schemas;
use platform::{CancellationToken, Platform, Received, retry};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use streams::Event;
use streams::event::{LocationUpdate, UserBeacon};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::members::{Moves, VERSION};
use super::questions::Questions;
use super::zone::{Scope, Zone};
use crate::cache::Cache;
use crate::positions::KnownDriver;

/// All processes subscribe to it. A core subject: no stream captures it.
const EVERYONE: &str = "location.service.heard";
/// How often a process says that it is there.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(5);
/// What was received of a driver for so long is handed over with the zone. It is longer than a dead owner goes unnoticed, and than it
/// takes until a place is a row: a new owner reads what is older there.
const HANDED_OVER: chrono::Duration = chrono::Duration::seconds(60);
/// The most drivers of one message, which stays below the largest one of a NATS server.
const DRIVERS_MAX: usize = 1_000;

/// Where one process receives the positions of its zones.
fn subject_of(pod: &str) -> String {
    format!("location.pod.{pod}")
}

/// Speaks to the other processes.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    platform: Platform,
    cache: Arc<Cache>,
}

/// `updates` and `beacons` are always there, because a process of the version before needs them.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "PositionExchange")]
struct Outgoing<'a> {
    version: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    leaving: bool,
    updates: Vec<&'a LocationUpdate>,
    beacons: Vec<&'a UserBeacon>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    drivers: &'a [KnownDriver],
    needed_up_to: u64,
    #[serde(skip_serializing_if = "is_zero")]
    needed_at_once: u64,
}

/// The schema of a message: text of two lines.
pub(crate) fn body(schemas: &mut Schemas) -> serde_json::Value {
    serde_json::json!({
        "type": "string",
        "description": "The id of the process, a line feed, and JSON.",
        "x-second-line": schemas.written::<Outgoing<'_>>(),
    })
}

fn is_zero(sequence: &u64) -> bool {
    *sequence == 0
}

#[derive(Default, Deserialize)]
struct Incoming {
    /// 0: from before there were zones.
    #[serde(default)]
    version: u32,
    /// The process ends.
    #[serde(default)]
    leaving: bool,
    updates: Vec<LocationUpdate>,
    beacons: Vec<UserBeacon>,
    /// Drivers who came into another zone, or who are handed over.
    #[serde(default)]
    drivers: Vec<KnownDriver>,
    /// Points of the stream up to this sequence should become rows soon; 0 if none.
    #[serde(default)]
    needed_up_to: u64,
    /// The same at once, for a cancelled ride.
    #[serde(default)]
    needed_at_once: u64,
}

/// The positions of a batch for others.
#[derive(Default)]
struct Parcels<'a> {
    /// By owner; `None`: for all.
    positions: BTreeMap<Option<Arc<str>>, Outgoing<'a>>,
    /// For all.
    entered: Vec<KnownDriver>,
}

impl Exchange {
    pub(crate) fn new(platform: &Platform, cache: &Arc<Cache>) -> Self {
        Self { platform: platform.clone(), cache: cache.clone() }
    }

    /// Sends the positions of a batch, which are recorded here, to the owners of their zones. A failure is logged and nothing more.
    pub(crate) async fn send(&self, batch: &[&Received]) {
        let Parcels { positions, entered } = self.parcels(batch);
        for (owner, outgoing) in positions {
            self.publish(owner.as_deref(), outgoing).await;
        }
        self.announce(&entered).await;
    }

    fn parcels<'a>(&self, batch: &[&'a Received]) -> Parcels<'a> {
        let members = self.cache.members();
        let mut positions = self.cache.positions();
        let (is_alone, to_all) = (!members.has_others(), members.has_other_version());
        // Who is sent everything needs no word of zones.
        let is_announced = |zone| !is_alone && !to_all && members.owner(zone).is_none();
        let mut parcels = Parcels { entered: positions.take_entered(is_announced), ..Parcels::default() };
        if is_alone {
            return parcels;
        }
        for received in batch {
            let (zone, update, beacon) = match &received.event {
                Event::LocationUpdate(update) => (Zone::of(&update.location), Some(update), None),
                Event::UserBeacon(beacon) => {
                    // It may repeat an older place.
                    let known = positions.zone_of(beacon.user_id);
                    (known.unwrap_or_else(|| Zone::of(&beacon.location)), None, Some(beacon))
                }
                _ => continue,
            };
            let owner = members.owner(zone);
            if owner.is_some() || to_all {
                let outgoing = parcels.positions.entry(owner.filter(|_| !to_all)).or_default();
                outgoing.updates.extend(update);
                outgoing.beacons.extend(beacon);
            }
        }
        parcels
    }

    /// Says to all that a ride waits for points up to this sequence. If that is lost, the points wait no longer than they may.
    pub(crate) async fn send_needed(&self, needed_up_to: u64) {
        if self.has_listeners() {
            self.publish(None, Outgoing { needed_up_to, ..Outgoing::default() }).await;
        }
    }

    /// Says to all that a client waits until the points up to this sequence are rows.
    pub(crate) async fn send_needed_at_once(&self, needed_at_once: u64) {
        if self.has_listeners() {
            self.publish(None, Outgoing { needed_at_once, ..Outgoing::default() }).await;
        }
    }

    fn has_listeners(&self) -> bool {
        let members = self.cache.members();
        members.has_others() || members.has_left()
    }

    /// Says to all in which zones these drivers are now.
    async fn announce(&self, entered: &[KnownDriver]) {
        for drivers in entered.chunks(DRIVERS_MAX) {
            self.publish(None, Outgoing { drivers, ..Outgoing::default() }).await;
        }
    }

    /// To one process, or to all.
    async fn publish(&self, to: Option<&str>, outgoing: Outgoing<'_>) {
        let leaving = self.cache.members().has_left();
        let outgoing = Outgoing { version: VERSION, leaving, ..outgoing };
        // The pod comes before the JSON, so that a process skips its own messages without parsing them.
        let mut payload = format!("{}\n", self.platform.pod).into_bytes();
        serde_json::to_writer(&mut payload, &outgoing).expect("events have string keys and no failing serializer");
        let subject = to.map_or_else(|| EVERYONE.to_owned(), subject_of);
        if let Err(error) = self.platform.bus.publish_core(&subject, payload.into()).await {
            tracing::debug!(%error, subject, "positions were not sent to other location processes");
        }
    }

    /// Receives what others send, until `stop`.
    pub(crate) async fn receive(self, stop: CancellationToken) {
        if !self.platform.bus.is_shared() {
            stop.cancelled().await;
            return;
        }
        let mut delays = retry::dependency();
        let mut presence = interval(PRESENCE_INTERVAL);
        presence.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let questions = Questions::new(&self.platform, &self.cache);
        while !stop.is_cancelled() {
            let (own, bus) = (subject_of(&self.platform.pod), &self.platform.bus);
            // Others ask a process as soon as it says that it is there, and take it for gone if nobody subscribes to its subject.
            let subscribed = match (bus.subscribe(EVERYONE, None).await, bus.subscribe(&own, None).await) {
                (Ok(everyone), Ok(own)) if questions.are_answered_here().await => Ok((everyone, own)),
                (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
                _ => Err("this process does not answer yet".to_owned()),
            };
            match subscribed {
                Ok((mut everyone, mut own)) => loop {
                    let (message, source) = tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        _ = presence.tick() => {
                            self.cache.members().expire(self.platform.world.now());
                            self.publish(None, Outgoing::default()).await;
                            self.hand_over().await;
                            continue;
                        }
                        () = self.cache.members_changed().notified() => {
                            self.hand_over().await;
                            continue;
                        }
                        message = everyone.next() => (message, "everyone"),
                        message = own.next() => (message, "owner"),
                    };
                    let Some(message) = message else { break };
                    delays.reset();
                    self.apply(&message.payload, source).await;
                },
                Err(error) => tracing::debug!(error, "cannot receive the positions of other location processes"),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = sleep(delays.next_delay()) => {}
            }
        }
        self.leave().await;
    }

    async fn apply(&self, payload: &[u8], source: &str) {
        let now = self.platform.world.now();
        let Some((pod, incoming)) = parse(&self.platform.pod, payload) else { return };
        let is_new = {
            let mut members = self.cache.members();
            if incoming.leaving {
                members.gone(pod, now);
                false
            } else {
                members.seen(pod, incoming.version, now)
            }
        };
        if is_new {
            // A process that has just started should not wait for the next time.
            self.publish(None, Outgoing::default()).await;
        }
        let recorded = &self.platform.metrics.positions_recorded;
        recorded.with_label_values(&[source]).inc_by((incoming.updates.len() + incoming.beacons.len()) as u64);
        recorded.with_label_values(&["zone"]).inc_by(incoming.drivers.len() as u64);
        let entered = record(&self.cache, &incoming, now);
        self.announce(&entered).await;
        self.hand_over().await;
    }

    /// Does what follows from a change of owners.
    async fn hand_over(&self) {
        let Moves { gained, hand_over } = self.cache.members().take_moves();
        if gained {
            self.cache.need_drivers();
        }
        for (pod, zones) in hand_over {
            self.send_drivers(&pod, Scope::Zones(zones)).await;
        }
    }

    async fn send_drivers(&self, pod: &str, scope: Scope) {
        let since = self.platform.world.now() - HANDED_OVER;
        let drivers = self.cache.positions().received_since(&scope, since);
        tracing::debug!(pod, drivers = drivers.len(), "zones have another owner");
        for drivers in drivers.chunks(DRIVERS_MAX) {
            self.publish(Some(pod), Outgoing { drivers, ..Outgoing::default() }).await;
        }
    }

    /// Hands all zones over. From now on every message says that this process is no owner.
    async fn leave(&self) {
        let next = self.cache.members().leave();
        self.publish(None, Outgoing::default()).await;
        for (pod, zones) in next {
            self.send_drivers(&pod, Scope::Zones(zones)).await;
        }
    }
}

/// What another process sent, and which; of one that cannot be read, that it is there in another version.
fn parse<'a>(own_pod: &str, payload: &'a [u8]) -> Option<(&'a str, Incoming)> {
    let end = payload.iter().position(|byte| *byte == b'\n')?;
    let (pod, body) = payload.split_at(end);
    if pod == own_pod.as_bytes() {
        return None;
    }
    let incoming = serde_json::from_slice(body).unwrap_or_else(|error| {
        tracing::debug!(%error, "a message of another location process cannot be read");
        Incoming::default()
    });
    Some((str::from_utf8(pod).ok()?, incoming))
}

/// Records what another process sent. Returns the drivers who came into another zone of this process by it.
fn record(cache: &Cache, incoming: &Incoming, now: DateTime<Utc>) -> Vec<KnownDriver> {
    if incoming.needed_up_to > 0 {
        cache.arrived_rides().set_needed_elsewhere(incoming.needed_up_to, now);
    }
    if incoming.needed_at_once > 0 {
        cache.arrived_rides().set_needed_at_once(incoming.needed_at_once, now);
    }
    let members = cache.members();
    let mut positions = cache.positions();
    for update in incoming.updates.iter().filter(|u| u.location.is_valid()) {
        positions.record_update(update, now);
    }
    for beacon in incoming.beacons.iter().filter(|b| b.location.is_valid()) {
        positions.record_beacon(beacon, now);
    }
    for driver in incoming.drivers.iter().filter(|d| d.is_valid()) {
        positions.restore(driver);
    }
    let to_all = members.has_other_version();
    positions.take_entered(|zone| !to_all && members.owner(zone).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_learns_what_rides_of_others_need_and_understands_the_version_before() {
        let cache = Cache::default();
        let needed = |payload: &str| {
            let (pod, incoming) = parse("own", payload.as_bytes())?;
            record(&cache, &incoming, DateTime::UNIX_EPOCH);
            Some((pod.to_owned(), incoming.version, cache.arrived_rides().needed_up_to(DateTime::UNIX_EPOCH)))
        };
        let other = |version, sequence| Some(("other".to_owned(), version, sequence));
        assert_eq!(needed("own\n{\"updates\":[],\"beacons\":[],\"needed_up_to\":7}"), None, "its own message");
        assert_eq!(needed("other\n{\"updates\":[],\"beacons\":[],\"needed_up_to\":7}"), other(0, 7));
        assert_eq!(needed("other\n{\"updates\":[],\"beacons\":[]}"), other(0, 7), "from the version before");
        // The stream was made again, and counts from 1.
        assert_eq!(needed("other\n{\"version\":1,\"updates\":[],\"beacons\":[],\"needed_up_to\":3}"), other(1, 3));
        assert_eq!(needed("other\n{\"of_a_later\":\"version\"}"), other(0, 3), "it is there");
    }

    #[test]
    fn the_version_before_understands_what_is_sent() {
        let body = serde_json::to_value(Outgoing { version: VERSION, needed_up_to: 7, ..Outgoing::default() }).unwrap();
        assert_eq!(body, serde_json::json!({"version": 1, "updates": [], "beacons": [], "needed_up_to": 7}));
    }
}
