//! The rig: servers, processes, proxies and a simulated city; faults from a seed; then healing, rest, and the checks.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use simulator::{Config, Observation, Summary};
use sqlx::PgConnection;
use streams::Bus;
use testing::MustEnd;
use tokio::time::{Instant, sleep};

use crate::checks;
use crate::duplicates::{self, Duplicates};
use crate::injection::{Active, State};
use crate::nemesis::{Dealt, Fault, Then};
use crate::processes::{Addresses, Directory, Process};
use crate::proxy::Proxy;
use crate::records::{self, Records};
use crate::servers::{Nats, Postgres};

/// Two processes of each service, which share the work or stand by.
const FLEET: [&str; 8] = ["users", "users", "match", "match", "rides", "rides", "location", "location"];
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// From the end of the city's day until everything is at rest: two ack waits, and the delays between three tries.
const REST_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    /// How long faults are dealt.
    pub(crate) faults_for: Duration,
    /// 1, or 3 for a cluster.
    pub(crate) nodes: usize,
    /// One fault again and again, instead of the seed's.
    pub(crate) only: Option<Dealt>,
    /// A run with fewer faults fails.
    pub(crate) at_least: u64,
}

/// A process and the proxies that it connects through.
pub(crate) struct Place {
    pub(crate) process: Process,
    pub(crate) state: State,
    /// One for each node of NATS.
    pub(crate) nats: Vec<Proxy>,
    pub(crate) database: Proxy,
}

/// A run that has begun.
pub(crate) struct Rig {
    pub(crate) settings: Settings,
    pub(crate) began: Instant,
    /// Removed last, and only if nothing is wrong.
    pub(crate) _logs: Directory,
    pub(crate) postgres: Postgres,
    pub(crate) nats: Nats,
    pub(crate) places: Vec<Place>,
    pub(crate) fronts: Vec<Proxy>,
    pub(crate) bus: Bus,
    pub(crate) duplicates: Duplicates,
    pub(crate) lease_reader: Option<PgConnection>,
    pub(crate) leases: Vec<(i64, String)>,
    pub(crate) observer: Receiver<Observation>,
    pub(crate) observations: Vec<Observation>,
    pub(crate) acks: u64,
    pub(crate) active: Vec<Active>,
    pub(crate) healed_at: Option<(Instant, u64)>,
    pub(crate) kinds: BTreeMap<String, u64>,
    pub(crate) recoveries: Vec<Duration>,
    pub(crate) wrong: Vec<String>,
    end: MustEnd,
}

/// Runs to the end; panics with the seed and the ids if something is wrong.
pub(crate) async fn run(settings: Settings) {
    let (to, observer) = mpsc::channel();
    let mut rig = Rig::start(settings, observer).await;
    let city = simulator::run(rig.city(to));
    let mut city = Box::pin(city);
    let mut nemesis = Box::pin(rig.inject_faults());
    // The city's people are tasks of their own; its future waits for the end of their day.
    let early = tokio::select! {
        biased;
        summary = &mut city => Some(summary),
        () = &mut nemesis => None,
    };
    drop(nemesis);
    let summary = match early {
        Some(summary) => {
            rig.wrong.push("the city's day was over before the faults were".to_owned());
            summary
        }
        None => loop {
            tokio::select! {
                biased;
                summary = &mut city => break summary,
                () = sleep(TICK) => {}
            }
            rig.tick().await;
        },
    };
    rig.finish(summary.unwrap()).await;
}

impl Rig {
    async fn start(settings: Settings, observer: Receiver<Observation>) -> Self {
        let logs = Directory::new();
        let postgres = Postgres::new(&logs.0).await;
        let nats = Nats::new(&logs.0, settings.nodes).await;
        let mut places = Vec::new();
        for (n, service) in FLEET.into_iter().enumerate() {
            let mut lines = Vec::new();
            for port in nats.ports() {
                lines.push(Proxy::to(port).await);
            }
            let database = Proxy::to(postgres.port()).await;
            let urls: Vec<String> = lines.iter().map(|line| format!("nats://127.0.0.1:{}", line.port)).collect();
            let replicas = settings.nodes;
            let addresses = Addresses { replicas, ..Addresses::new(&urls.join(","), &Postgres::url(database.port)) };
            let slot = FLEET[..n].iter().filter(|other| **other == service).count();
            let process = Process::new(service, slot, addresses, &logs.0);
            places.push(Place { process, state: State::Up, nats: lines, database });
        }
        // Readers of events start before their writers.
        for place in places.iter_mut().rev() {
            place.process.start(None);
        }
        for place in &places {
            place.process.wait_ready().await;
        }
        let mut fronts = Vec::new();
        for place in places.iter().filter(|place| place.process.service == "users") {
            fronts.push(Proxy::to(place.process.port).await);
        }
        let replicas = settings.nodes;
        let bus = Addresses { replicas, ..Addresses::new(&nats.urls().join(","), "") }.bus().await;
        let duplicates = Duplicates::listen(&bus).await;
        Self {
            settings,
            began: Instant::now(),
            _logs: logs,
            postgres,
            nats,
            places,
            fronts,
            bus,
            duplicates,
            lease_reader: None,
            leases: Vec::new(),
            observer,
            observations: Vec::new(),
            acks: 0,
            active: Vec::new(),
            healed_at: None,
            kinds: BTreeMap::new(),
            recoveries: Vec::new(),
            wrong: Vec::new(),
            end: MustEnd::new("Rig::finish"),
        }
    }

    fn city(&self, observer: Sender<Observation>) -> Config {
        let rides = self.places.iter().find(|place| place.process.service == "rides").unwrap();
        Config {
            urls: self.fronts.iter().map(|front| format!("http://127.0.0.1:{}", front.port)).collect(),
            rides_url: Some(rides.process.url()),
            drivers: 14,
            passengers: 14,
            rides: 1_000_000,
            time_limit: self.settings.faults_for + Duration::from_secs(110),
            seed: self.settings.seed,
            speed: 120.0,
            // At this speed, and with positions lost, a real move cannot be told from a GPS jump.
            faults: simulator::Faults { jump: 0.0, ..Default::default() },
            billed_tolerance: None,
            outage: Duration::from_secs(90),
            slow_clock: Duration::from_secs(3 * 3_600),
            fast_clock: Duration::from_secs(2 * 3_600),
            observer: Some(observer),
            ..Config::default()
        }
    }

    pub(crate) fn say(&self, what: &str) {
        eprintln!("{:7.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// As an operator would: `audit repair` restores what the faults did to RIDE_STREAM, and `audit verify` then finds nothing.
    async fn audit(&mut self, database: &str) {
        // Duplicates may be stored before the versions that they follow; repair deletes them, and publishes their ids once more.
        duplicates::expire_duplicate_windows(&self.nats.urls()).await;
        let replicas = self.settings.nodes;
        let servers = Addresses { replicas, ..Addresses::new(&self.nats.urls().join(","), database) };
        for command in ["repair", "verify"] {
            let (sound, output) = servers.rideshare(&["audit", command]).await;
            self.say(&format!("audit {command}: {}", output.lines().last().unwrap_or_default()));
            if !sound {
                self.wrong.push(format!("audit {command}: {output}"));
            }
        }
    }

    async fn finish(mut self, summary: Summary) {
        self.say("the city's day is over");
        let database = Postgres::url(self.postgres.port());
        let until = Instant::now() + REST_LIMIT;
        let began = Instant::now();
        loop {
            self.tick().await;
            let unrest = records::unrest(&database, &self.bus).await;
            if unrest.is_empty() {
                break;
            }
            if Instant::now() >= until {
                self.wrong.push(format!("no rest in {REST_LIMIT:?}: {unrest:?}"));
                break;
            }
            sleep(TICK * 5).await;
        }
        let rest = began.elapsed();
        self.drain();
        self.audit(&database).await;
        let records = Records::read(&database, &self.bus).await;
        let mut wrong = std::mem::take(&mut self.wrong);
        wrong.extend(summary.violations.iter().cloned());
        wrong.extend(checks::all(&records, &self.observations));
        // With more zones several processes write at the same time: what each may write, the other checks see.
        if number("FAULTS_ZONES", 1) == 1 {
            wrong.extend(checks::fencing(&records, &self.leases));
        }
        for place in &mut self.places {
            if place.process.text().contains("panicked at") {
                wrong.push(format!("{} panicked: see its log", place.process.name));
            }
            if !place.process.stop().await {
                wrong.push(format!("{} did not end when all was over", place.process.name));
            }
        }
        self.end.reached();
        let Settings { seed, nodes, at_least, .. } = self.settings;
        let faults: u64 = self.kinds.values().sum();
        let slowest = self.recoveries.iter().max().copied().unwrap_or_default();
        eprintln!("{summary}");
        eprintln!(
            "seed {seed}, {nodes} NATS nodes, {faults} faults {:?}\n{} rides, {} events on RIDE_STREAM, {} published in all, {} acked commands, \
             {} dead letters, {} leases\nslowest recovery {:.1} s of {}, at rest after {:.1} s, {} violations",
            self.kinds,
            records.rides.len(),
            records.ride_stream.len(),
            records.outbox.len(),
            self.acks,
            records.dead.len(),
            self.leases.len(),
            slowest.as_secs_f64(),
            self.recoveries.len(),
            rest.as_secs_f64(),
            wrong.len()
        );
        assert!(wrong.is_empty(), "seed {seed}: {} violations: {wrong:#?}", wrong.len());
        assert!(
            faults >= at_least && summary.completed >= 20,
            "seed {seed}: {faults} faults, {} rides",
            summary.completed
        );
    }
}

pub(crate) fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no whole number")),
        Err(_) => default,
    }
}

/// The short run, and with other settings the long one: `scripts/faults`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_is_done_twice() {
    let nodes = usize::try_from(number("FAULTS_NODES", 1)).unwrap();
    let faults_for = Duration::from_secs(number("FAULTS_SECONDS", 110));
    run(Settings { seed: number("FAULTS_SEED", 1), faults_for, nodes, only: None, at_least: 20 }).await;
}

/// The leader is stopped for longer than its lease while people search and accept, and is then continued.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_and_continued_writes_nothing_under_its_old_epoch() {
    let (lasts, pause) = (Duration::from_secs(7), Duration::from_secs(9));
    let only = Some(Dealt { fault: Fault::FreezeLead, lasts, pause, then: Then::GoOn });
    run(Settings { seed: 1, faults_for: Duration::from_secs(40), nodes: 1, only, at_least: 4 }).await;
}
