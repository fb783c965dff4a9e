//! The processes of the simulation, one service each, and who starts them again when they have died. A process is its tasks:
//! when it dies they are dropped wherever they are, and its handle to bus and stores is closed at that moment.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures_util::FutureExt;
use location::Location;
use matching::Matching;
use platform::{Health, Metrics, Platform, Shutdown, Store, keeper};
use rides::Rides;
use server::monitor::{self, Check};
use streams::faults::{Dice, Faults};
use streams::topology::Topology;
use streams::{Bus, Service};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use users::Users;

use crate::scene::Scene;

/// How a process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// At once.
    Kill,
    /// By SIGTERM.
    Stop,
}

/// A process among others, through all its lives.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) service: Service,
    pub(crate) name: Arc<str>,
    inner: Mutex<Inner>,
    told: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    running: Option<Running>,
    end: Option<End>,
    /// It is not started before that.
    away_until: Option<Instant>,
}

#[derive(Debug)]
struct Running {
    faults: Faults,
    platform: Platform,
    users: Option<Users>,
    tasks: JoinSet<()>,
}

impl Process {
    pub(crate) fn new(service: Service, number: usize) -> Arc<Self> {
        let name = format!("{service}-{number}").into();
        Arc::new(Self { service, name, inner: Mutex::default(), told: Notify::new() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it, and keeps it away until then.
    pub(crate) fn end(&self, end: End, away_until: Option<Instant>) {
        let mut inner = self.inner();
        inner.end = Some(end);
        inner.away_until = away_until;
        drop(inner);
        self.told.notify_one();
    }

    /// The faults that it meets, if it runs.
    pub(crate) fn faults(&self) -> Option<Faults> {
        self.inner().running.as_ref().map(|running| running.faults.clone())
    }

    /// It may start again.
    pub(crate) fn come_back(&self) {
        self.inner().away_until = None;
        self.told.notify_one();
    }

    /// Users, to serve a session in this process.
    pub(crate) fn users(&self) -> Option<Users> {
        self.inner().running.as_ref().and_then(|running| running.users.clone())
    }

    /// Runs `session` in this process, and dies with it. False if it does not run.
    pub(crate) fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) -> bool {
        self.inner().running.as_mut().map(|running| running.tasks.spawn(session)).is_some()
    }

    /// What is broken in it; a process that does not run is broken as a whole.
    pub(crate) fn faulty(&self) -> Vec<String> {
        match &self.inner().running {
            None => vec![format!("{} does not run", self.name)],
            Some(running) => {
                let faults = running.platform.health.faults().into_iter();
                faults.map(|(part, why)| format!("{}: {part}: {why}", self.name)).collect()
            }
        }
    }

    /// Starts it, and again whenever it has ended, for as long as it is polled.
    pub(crate) async fn supervise(self: Arc<Self>, scene: Arc<Scene>, mut dice: Dice) {
        loop {
            loop {
                let away_until = self.inner().away_until.filter(|until| Instant::now() < *until);
                let Some(until) = away_until else { break };
                tokio::select! {
                    biased;
                    () = self.told.notified() => {}
                    () = sleep_until(until) => {}
                }
            }
            let faults = scene.faults.another();
            let running = match timeout(Duration::from_secs(90), self.start(&scene, &faults)).await {
                Ok(Ok(running)) => running,
                Ok(Err(error)) => {
                    scene.log().note(&format!("{} does not start: {error}", self.name));
                    sleep(Duration::from_secs(1)).await;
                    continue;
                }
                Err(_) => {
                    scene.log().wrong(format!("{} does not start in 90 s", self.name));
                    continue;
                }
            };
            scene.log().note(&format!("{} runs", self.name));
            let died = faults.died();
            {
                let mut inner = self.inner();
                inner.running = Some(running);
                inner.end = None;
            }
            let how = loop {
                tokio::select! {
                    biased;
                    () = died.notified() => break End::Kill,
                    () = self.told.notified() => {
                        if let Some(end) = self.inner().end.take() {
                            break end;
                        }
                    }
                }
            };
            scene.log().note(&format!("{} ends by {how:?}", self.name));
            let running = self.inner().running.take();
            if let (End::Stop, Some(mut running)) = (how, running) {
                running.platform.shutdown.begin();
                let all = async { while running.tasks.join_next().await.is_some() {} };
                if timeout(Duration::from_secs(30), all).await.is_err() {
                    scene.log().note(&format!("{} did not stop in 30 s", self.name));
                }
            }
            // Whatever of it is left somewhere does nothing any more.
            faults.die();
            sleep(dice.millis(200, 4_000)).await;
        }
    }

    async fn start(&self, scene: &Arc<Scene>, faults: &Faults) -> Result<Running> {
        let platform = Platform {
            world: scene.world.clone(),
            bus: Bus::Memory(scene.bus.seen_with(faults)),
            topology: Arc::new(Topology::rideshare()),
            metrics: Arc::new(Metrics::new()),
            health: Arc::new(Health::default()),
            shutdown: Shutdown::new(),
            pod: self.name.clone(),
        };
        keeper::start(&platform).await.map_err(anyhow::Error::msg)?;
        let (stop, pod, tokens) = (platform.shutdown.clone(), &self.name, scene.tokens.clone());
        let mut running = Running { faults: faults.clone(), platform, users: None, tasks: JoinSet::new() };
        let platform = running.platform.clone();
        match self.service {
            Service::Location => {
                let config =
                    location::Config { max_speed_mps: 1_000_000.0, aggregate_every: chrono::Duration::seconds(6) };
                let store = scene.stores.location.seen_with(pod, faults);
                let service = Location::start(&platform, &store, tokens, config).await?;
                self.run(scene, &mut running, check(&store), service.run(stop));
            }
            Service::Rides => {
                let store = scene.stores.rides.seen_with(pod, faults);
                let service = Rides::start(&platform, &store, tokens, rides::Config::default()).await?;
                self.run(scene, &mut running, check(&store), service.run(stop));
            }
            Service::Match => {
                let config = matching::Config { request_ttl_s: 90, ..Default::default() };
                let store = scene.stores.matching.seen_with(pod, faults);
                let service = Matching::start(&platform, &store, config).await?;
                self.run(scene, &mut running, check(&store), service.run(stop));
            }
            Service::Users => {
                let config = users::Config {
                    otp_delivery: "response".parse().map_err(anyhow::Error::msg)?,
                    request_ttl_s: 90,
                    ..Default::default()
                };
                let store = scene.stores.users.seen_with(pod, faults);
                let service = Users::start(&platform, &store, tokens, config).await?;
                self.run(scene, &mut running, check(&store), service.clone().run(stop));
                running.users = Some(service);
            }
        }
        Ok(running)
    }

    /// Runs the service; that it ends unasked is wrong whatever the faults.
    fn run(
        &self,
        scene: &Arc<Scene>,
        running: &mut Running,
        check: Check,
        service: impl Future<Output = ()> + Send + 'static,
    ) {
        running.tasks.spawn(monitor::watch(running.platform.clone(), vec![(self.service.name(), check)]));
        let (scene, stop, name) = (scene.clone(), running.platform.shutdown.clone(), self.name.clone());
        running.tasks.spawn(async move {
            let ended = AssertUnwindSafe(service).catch_unwind().await;
            if ended.is_err() || !stop.has_begun() {
                scene.log().wrong(format!("{name} ended by itself"));
            }
        });
    }
}

/// As the program asks its store whether it answers.
fn check<T: Clone + Default + Send + Sync + 'static>(store: &Store<T>) -> Check {
    let store = store.clone();
    Box::new(move || {
        let store = store.clone();
        Box::pin(async move { store.check().await })
    })
}
