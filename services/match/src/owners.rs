//! With more than one zone: the loop of a process. It says that it lives, holds the leases of its share of the zones, matches in those, and
//! releases what is more than its share. `lease.rs` says why two never write for one zone.
//!
//! Beside the zones it routes events to all zones and passes positions on (`router.rs`), as long as its division of the map is in force.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use geospatial::newest::Fix;
use platform::consumer::Ended;
use platform::{CancellationToken, Platform, Store, StoreError, Worker, kill_point, retry};
use streams::match_zones::{ZonePositions, inputs_of, positions_of};
use streams::{Service, Subject};
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::config::Config;
use crate::handlers::{self, BATCH_MAX, Matcher};
use crate::leader::{HEALTH_PART, LEASE_TIMEOUT, POSITIONS_BATCH_MAX, SUBJECTS};
use crate::lease::{self, Held, Standing};
use crate::positions::DriverPositions;
use crate::router::{Forwarder, Router};
use crate::tables::Tables;
use crate::zones::{Zone, ZoneSet};
use crate::{fleet, inputs};

/// Limit of taking the first zone of another division of the map.
const REZONE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a process looks whether something waits for its zones, should nothing wake it.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What wakes the owners of the zones of a process, by zone.
#[derive(Debug, Clone, Default)]
struct Wakes(Arc<Mutex<BTreeMap<u16, Arc<Notify>>>>);

impl Wakes {
    fn zones(&self) -> MutexGuard<'_, BTreeMap<u16, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, zones: impl IntoIterator<Item = u16>) {
        let all = self.zones();
        zones.into_iter().filter_map(|zone| all.get(&zone)).for_each(|wake| wake.notify_one());
    }
}

/// A zone of this process.
#[derive(Debug)]
struct Owned {
    epoch: i64,
    stop: CancellationToken,
    task: Id,
}

pub(crate) struct Owners {
    platform: Platform,
    store: Store<Tables>,
    config: Arc<Config>,
    wakes: Wakes,
    zones: BTreeMap<u16, Owned>,
    tasks: JoinSet<Option<Ended>>,
    /// Until when all leases were renewed.
    held_until: Instant,
    /// The zone that was last tried to be taken.
    tried: u16,
    /// Since when a zone has had no owner.
    free_since: BTreeMap<u16, Instant>,
    routing: JoinSet<Option<Ended>>,
    routing_stop: CancellationToken,
}

impl Owners {
    pub(crate) fn new(platform: &Platform, store: &Store<Tables>, config: &Arc<Config>) -> Self {
        Self {
            platform: platform.clone(),
            store: store.clone(),
            config: config.clone(),
            wakes: Wakes::default(),
            zones: BTreeMap::new(),
            tasks: JoinSet::new(),
            held_until: Instant::now(),
            tried: 0,
            free_since: BTreeMap::new(),
            routing: JoinSet::new(),
            routing_stop: CancellationToken::new(),
        }
    }

    pub(crate) async fn run(mut self, stop: &CancellationToken) {
        let mut look = JoinSet::new();
        look.spawn(look_for_inputs(self.store.clone(), self.wakes.clone()));
        let mut next = Instant::now();
        while !stop.is_cancelled() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.tasks.join_next_with_id() => {
                    let task = match &ended {
                        Ok((task, _)) => *task,
                        Err(error) => error.id(),
                    };
                    self.ended(task, &ended.map(|(_, ended)| ended)).await;
                }
                Some(ended) = self.routing.join_next() => {
                    tracing::warn!(?ended, "match: events are not routed to zones any more; it begins again");
                    self.stop_routing().await;
                }
                () = tokio::time::sleep_until(next) => {
                    next = Instant::now() + self.config.lease_renew;
                    self.attend().await;
                }
            }
        }
        self.stop_routing().await;
        self.zones.values().for_each(|zone| zone.stop.cancel());
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let task = match &ended {
                Ok((task, _)) => *task,
                Err(error) => error.id(),
            };
            self.ended(task, &ended.map(|(_, ended)| ended)).await;
        }
        let left = async {
            let mut tx = self.store.begin().await?;
            lease::leave(&mut tx, &self.platform.pod, self.platform.world.now()).await?;
            tx.commit().await
        };
        let left: Result<Result<(), StoreError>, _> = timeout(LEASE_TIMEOUT, left).await;
        tracing::info!(left = matches!(left, Ok(Ok(()))), "match: no longer active");
        look.shutdown().await;
    }

    /// Renews the leases, and takes or releases zones.
    async fn attend(&mut self) {
        // Taken before the request, so that the estimate errs on the safe side.
        let requested_at = Instant::now();
        match timeout(LEASE_TIMEOUT, self.renew()).await {
            Ok(Ok(standing)) => {
                self.held_until = requested_at + self.config.lease_ttl;
                self.platform.health.set_healthy(HEALTH_PART);
                self.share(standing, requested_at + self.config.lease_renew).await;
            }
            Ok(Err(error)) => self.platform.health.set_unhealthy(HEALTH_PART, error.to_string()),
            Err(_) => self.platform.health.set_unhealthy(HEALTH_PART, "the database does not answer"),
        }
        if Instant::now() >= self.held_until && self.zones.values().any(|zone| !zone.stop.is_cancelled()) {
            tracing::warn!("match: the leases expired because they could not be renewed");
            self.zones.values().for_each(|zone| zone.stop.cancel());
        }
    }

    async fn renew(&self) -> Result<Standing, StoreError> {
        let held: Vec<Held> = self.zones.iter().map(|(zone, own)| Held { zone: *zone, epoch: own.epoch }).collect();
        let mut tx = self.store.begin().await?;
        let own = (&*self.platform.pod, &held[..]);
        let now = self.platform.world.now();
        let standing = lease::attend(&mut tx, self.config.partition, own, self.config.lease_ttl(), now).await?;
        tx.commit().await?;
        Ok(standing)
    }

    /// Takes or releases zones. It begins with no zone after `until`: the leases that it holds are to be renewed.
    async fn share(&mut self, standing: Standing, until: Instant) {
        for (number, zone) in &self.zones {
            if !standing.renewed.contains(*number) && !zone.stop.is_cancelled() {
                tracing::warn!(zone = number, epoch = zone.epoch, "match: another process has taken the zone");
                zone.stop.cancel();
            }
        }
        let share = self.config.partition.share(standing.members, standing.members_before);
        let mut active = self.zones.values().filter(|zone| !zone.stop.is_cancelled()).count();
        if active > share
            && let Some((number, zone)) = self.zones.iter().rev().find(|(_, zone)| !zone.stop.is_cancelled())
        {
            // One at a time: others take it, and meanwhile more may join or leave.
            tracing::info!(
                zone = number,
                members = standing.members,
                share,
                "match: the zone is left to another process"
            );
            zone.stop.cancel();
        }
        // The first that takes a zone of another division gives all rows other zones.
        let limit = if standing.is_in_force { LEASE_TIMEOUT } else { REZONE_TIMEOUT };
        let mut free: Vec<u16> = standing.free.iter().filter(|number| !self.zones.contains_key(number)).collect();
        // Those that were tried last come last: one may have an owner that stands still in a transaction.
        let tried = free.iter().filter(|number| **number <= self.tried).count();
        free.rotate_left(tried);
        for number in free {
            if active >= share || Instant::now() >= until {
                break;
            }
            self.tried = number;
            match timeout(limit, self.take(number)).await {
                Ok(Ok(Some(epoch))) => {
                    self.begin(number, epoch);
                    active += 1;
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::warn!(%error, zone = number, "match: the zone was not taken"),
                Err(_) => tracing::warn!(zone = number, "match: the zone was not taken in time"),
            }
        }
        self.note_free(standing.free);
        let is_in_force = standing.is_in_force || !self.zones.is_empty();
        if is_in_force && self.routing.is_empty() {
            self.begin_routing();
        } else if !is_in_force && !self.routing.is_empty() {
            self.stop_routing().await;
        }
    }

    /// Says how many zones have had no owner for longer than it takes to take one over.
    fn note_free(&mut self, free: ZoneSet) {
        let now = Instant::now();
        self.free_since.retain(|zone, _| free.contains(*zone) && !self.zones.contains_key(zone));
        for zone in free.iter().filter(|zone| !self.zones.contains_key(zone)) {
            self.free_since.entry(zone).or_insert(now);
        }
        let long = self.free_since.values().filter(|since| now - **since > 2 * self.config.lease_ttl).count();
        self.platform.metrics.match_zones_without_owner.set(long as f64);
        self.platform.metrics.match_zones.set(self.zones.len() as f64);
        self.platform.metrics.match_active.set(if self.zones.is_empty() { 0.0 } else { 1.0 });
    }

    async fn take(&self, number: u16) -> Result<Option<i64>, StoreError> {
        let mut tx = self.store.begin().await?;
        let zone = Zone { partition: self.config.partition, number };
        let at = (self.platform.world.now(), self.config.largest_radius_m());
        let epoch = lease::take(&mut tx, zone, &self.platform.pod, self.config.lease_ttl(), at).await?;
        if epoch.is_some() {
            tx.commit().await?;
            kill_point::reached("match.after_take");
        }
        Ok(epoch)
    }

    /// Matches in a zone until it is stopped, or fenced.
    fn begin(&mut self, number: u16, epoch: i64) {
        tracing::info!(zone = number, epoch, pod = &*self.platform.pod, "match: active in the zone");
        let (zone, stop) = (Zone { partition: self.config.partition, number }, CancellationToken::new());
        let wake = Arc::new(Notify::new());
        self.wakes.zones().insert(number, wake.clone());
        let (platform, store, config) = (self.platform.clone(), self.store.clone(), self.config.clone());
        let task = self.tasks.spawn(own((platform, store, config), zone, epoch, wake, stop.clone())).id();
        self.zones.insert(number, Owned { epoch, stop, task });
    }

    /// Releases the zone whose task ended.
    async fn ended(&mut self, task: Id, ended: &Result<Option<Ended>, tokio::task::JoinError>) {
        let Some(number) = self.zones.iter().find(|(_, zone)| zone.task == task).map(|(number, _)| *number) else {
            return;
        };
        let Some(Owned { epoch, .. }) = self.zones.remove(&number) else { return };
        self.wakes.zones().remove(&number);
        kill_point::reached("match.before_give_back");
        let release = async {
            let mut tx = self.store.begin().await?;
            let now = self.platform.world.now();
            let released = lease::release(&mut tx, Held { zone: number, epoch }, now).await?;
            tx.commit().await?;
            Ok::<bool, StoreError>(released)
        };
        // If it fails, others wait until the lease expires.
        let released = matches!(timeout(LEASE_TIMEOUT, release).await, Ok(Ok(true)));
        tracing::info!(zone = number, epoch, ?ended, released, "match: no longer active in the zone");
    }

    fn begin_routing(&mut self) {
        self.routing_stop = CancellationToken::new();
        let consumer = |subject| self.platform.topology.consumer(subject, Service::Match).clone();
        let router = Worker::new(
            &self.platform,
            Service::Match,
            &self.store,
            SUBJECTS.map(consumer).to_vec(),
            BATCH_MAX,
            Router::new(&self.platform, &self.config),
        );
        let stop = self.routing_stop.clone();
        self.routing.spawn(async move { Some(router.run(stop).await) });
        let forwarder = Worker::new(
            &self.platform,
            Service::Match,
            &self.store,
            vec![consumer(Subject::LocationUpdate)],
            POSITIONS_BATCH_MAX,
            Forwarder::new(&self.platform, &self.config),
        );
        let stop = self.routing_stop.clone();
        self.routing.spawn(async move { Some(forwarder.run(stop).await) });
    }

    async fn stop_routing(&mut self) {
        self.routing_stop.cancel();
        while self.routing.join_next().await.is_some() {}
    }
}

/// Matches in a zone.
async fn own(
    (platform, store, config): (Platform, Store<Tables>, Arc<Config>),
    zone: Zone,
    epoch: i64,
    wake: Arc<Notify>,
    stop: CancellationToken,
) -> Option<Ended> {
    // Positions that come meanwhile wait in the subscription.
    let positions = Arc::new(Mutex::new(DriverPositions::default()));
    let mut listeners = JoinSet::new();
    listeners.spawn(listen_to_positions(platform.clone(), zone.number, positions.clone()));
    listeners.spawn(listen_to_inputs(platform.clone(), zone.number, wake.clone()));
    let is_near =
        |at: &streams::Position| zone.partition.zones_near(at, config.largest_radius_m()).contains(zone.number);
    // Well before the lease expires: at most a second.
    let known = fleet::positions(&platform, is_near).await;
    handlers::lock(&positions).merge(known);
    let matcher = Matcher::new(&platform, &config, positions, zone, epoch);
    let worker = Worker::new(&platform, Service::Match, &store, Vec::new(), BATCH_MAX, matcher).woken_by(wake);
    Some(Box::pin(worker.run(stop)).await)
}

/// Records the positions that other processes pass on to a zone.
async fn listen_to_positions(platform: Platform, zone: u16, to: Arc<Mutex<DriverPositions>>) {
    let mut delays = retry::dependency();
    loop {
        match platform.bus.subscribe(&positions_of(zone), None).await {
            Ok(mut messages) => {
                delays.reset();
                while let Some(message) = messages.next().await {
                    let Ok(ZonePositions { positions }) = serde_json::from_slice(&message.payload) else {
                        tracing::debug!("positions for a zone cannot be read");
                        continue;
                    };
                    let now = platform.world.now();
                    let mut to = handlers::lock(&to);
                    for position in positions.iter().filter(|position| position.update.location.is_valid()) {
                        let fix = Fix::of(&position.update, position.stored_at.min(now));
                        to.record(position.update.user_id, &fix);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, zone, "cannot subscribe to the positions of a zone"),
        }
        sleep(delays.next_delay()).await;
    }
}

/// Wakes the owner of a zone when a process has written something for it.
async fn listen_to_inputs(platform: Platform, zone: u16, wake: Arc<Notify>) {
    let mut delays = retry::dependency();
    loop {
        match platform.bus.subscribe(&inputs_of(zone), None).await {
            Ok(mut messages) => {
                delays.reset();
                while messages.next().await.is_some() {
                    wake.notify_one();
                }
            }
            Err(error) => tracing::debug!(%error, zone, "cannot subscribe to what waits for a zone"),
        }
        sleep(delays.next_delay()).await;
    }
}

/// Wakes the owners of the process's zones for which something waits, whether a message said so or not.
async fn look_for_inputs(store: Store<Tables>, wakes: Wakes) {
    loop {
        sleep(LOOK_INTERVAL).await;
        let zones: Vec<u16> = wakes.zones().keys().copied().collect();
        if zones.is_empty() {
            continue;
        }
        let waiting = async {
            let mut tx = store.begin().await?;
            inputs::waiting(&mut tx, &zones).await
        };
        match timeout(LEASE_TIMEOUT, waiting).await {
            Ok(Ok(waiting)) => wakes.wake(waiting),
            Ok(Err(error)) => tracing::debug!(%error, "what waits for zones cannot be read"),
            Err(_) => tracing::debug!("what waits for zones is not read in time"),
        }
    }
}
