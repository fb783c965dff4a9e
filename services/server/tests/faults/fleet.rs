//! One process of each service, the day of a small city on them, and what must hold after it. It knows no faults: a test makes its own.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use simulator::{Config, Faults, Observation};
use streams::Bus;
use tokio::time::{Instant, sleep};

use crate::checks;
use crate::processes::{Addresses, Directory, Process};
use crate::records::{self, Records};

/// Readers of events start before their writers.
pub(crate) const SERVICES: [&str; 4] = ["location", "rides", "match", "users"];
/// From the last ride to rest: an ack wait and some delays between tries.
const REST_WAIT: Duration = Duration::from_secs(90);

/// A process of each service, in the order in which they start.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) processes: Vec<Process>,
}

impl Fleet {
    /// All at the same addresses; none is started.
    pub(crate) fn new(addresses: &Addresses, logs: &Directory) -> Self {
        Self::of(logs, |_| addresses.clone())
    }

    /// Each service at the addresses that are its own.
    pub(crate) fn of(logs: &Directory, addresses: impl Fn(&'static str) -> Addresses) -> Self {
        let processes = SERVICES.map(|service| Process::new(service, 0, addresses(service), &logs.0));
        Self { processes: processes.into() }
    }

    /// The process of this service.
    pub(crate) fn of_service(&self, service: &str) -> &Process {
        self.processes.iter().find(|process| process.service == service).expect("one of the four services")
    }

    /// More of the environment of all of them, from their next start on.
    pub(crate) fn set(&mut self, environment: &BTreeMap<&'static str, String>) {
        for process in &mut self.processes {
            process.environment.extend(environment.iter().map(|(name, value)| (*name, value.clone())));
        }
    }

    /// Starts one after another, each when the one before is ready.
    pub(crate) async fn start(&mut self) {
        for process in &mut self.processes {
            process.start(None);
            process.wait_ready().await;
        }
    }

    /// Ends all of them, each of which must finish what it has begun.
    pub(crate) async fn stop(&mut self) {
        for process in &mut self.processes {
            assert!(process.stop().await, "{} ends on SIGTERM", process.name);
        }
    }

    /// A day of so many drivers and as many passengers, who make no mistakes; and what they will see.
    pub(crate) fn day(&self, people: usize, rides: usize, seed: u64) -> (Config, Receiver<Observation>) {
        let (observer, observations) = mpsc::channel();
        let day = Config {
            urls: vec![self.of_service("users").url()],
            rides_url: Some(self.of_service("rides").url()),
            drivers: people,
            passengers: people,
            rides,
            time_limit: Duration::from_secs(240),
            seed,
            speed: 200.0,
            billed_tolerance: None,
            faults: Faults::none(),
            observer: Some(observer),
            ..Config::default()
        };
        (day, observations)
    }
}

/// Waits for rest, and then nothing is lost or done twice: all books agree with each other and with what people saw, and `audit verify` finds
/// nothing.
pub(crate) async fn judge(servers: &Addresses, observations: &Receiver<Observation>) {
    let bus = servers.bus().await;
    at_rest(&servers.database, &bus).await;
    let observations: Vec<_> = observations.try_iter().collect();
    let wrong = checks::all(&Records::read(&servers.database, &bus).await, &observations);
    assert!(wrong.is_empty(), "{wrong:#?}");
    servers.succeeds(&["audit", "verify"]).await;
}

/// Waits until no message and no outbox row waits and every ride is over.
pub(crate) async fn at_rest(database: &str, bus: &Bus) {
    let until = Instant::now() + REST_WAIT;
    loop {
        let unrest = records::unrest(database, bus).await;
        if unrest.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "no rest in {REST_WAIT:?}: {unrest:#?}");
        sleep(Duration::from_millis(250)).await;
    }
}
