//! How throughput grows with the number of processes, without the noise of a machine: the whole program in simulated time, N processes
//! of each service, where each transaction and each message occupies its process for a while (`streams/src/simulation/cost.rs` is the
//! model). The load is more than the processes can do, and grows with them. What comes out is virtual throughput, fitted to the universal
//! scalability law. The same seed gives the same numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use matching::zones::Partition;
use simulator::busy::{BusyPeople, Counts, Population, Workload};
use streams::simulation::{Costs, Dice, Sabotage, Work, set_sabotage};
use streams::{Bus, Service};
use testing::scalability::{Scalability, fit};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::city::transport;
use crate::processes::{Configs, Process};
use crate::scene::Scene;

const COSTS: Costs = Costs { transaction: Duration::from_millis(2), hop: Duration::from_micros(300) };
const SEED: u64 = 1;
/// MATCH_ZONES, and MATCH_ZONE_KM in metres as it is by default: a town lies in one cell, or in a few.
const ZONES: u16 = 64;
const ZONE_M: u32 = 10_000;
/// People for each process of users.
const PASSENGERS: usize = 64;
const DRIVERS: usize = 128;

/// How long is measured, and how long the load runs before.
#[derive(Debug, Clone, Copy)]
struct Length {
    warm_up: Duration,
    measured: Duration,
}

/// So long that it matters little at which moment of people's cycles, of a second or so, it ends.
const LONG: Length = Length { warm_up: Duration::from_secs(2), measured: Duration::from_secs(8) };
const SHORT: Length = Length { warm_up: Duration::from_millis(1_200), measured: Duration::from_millis(2_000) };
/// Processes of each service in the short run.
const FEW: [u32; 2] = [1, 3];
/// What the short run asks for.
const ENOUGH: f64 = 0.85;

/// The result of a measurement with N processes of each service.
#[derive(Debug, Clone, PartialEq)]
struct Measured {
    n: u32,
    /// Matches that became rides, or positions that both of their readers have read, in a virtual second.
    per_s: f64,
    /// Of the processes of each service together.
    work: BTreeMap<&'static str, Work>,
    measured: Duration,
    refused: u64,
}

impl Measured {
    /// The part of the time in which the processes of `service` were busy.
    fn busy(&self, work: &Work) -> f64 {
        work.busy.as_secs_f64() / self.measured.as_secs_f64() / f64::from(self.n)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>3} {:>9.1}", self.n, self.per_s)?;
        let done = self.per_s * self.measured.as_secs_f64();
        for (service, work) in &self.work {
            let (transactions, hops) = (work.transactions as f64 / done, work.hops as f64 / done);
            write!(f, "  {service} {:>3.0} % ({transactions:.2} tx, {hops:.2} hops)", self.busy(work) * 100.0)?;
        }
        let waited: Duration = self.work.values().map(|work| work.waited_for_rows).sum();
        write!(f, "  waited for rows {:.2} ms each, {} refused", waited.as_secs_f64() * 1_000.0 / done, self.refused)
    }
}

/// Measures one workload with `n` processes of each service.
fn measure(n: u32, workload: Workload, length: Length, sabotage: Sabotage) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    set_sabotage(sabotage);
    let measured = runtime.block_on(simulate(n, workload, length));
    drop(runtime);
    set_sabotage(Sabotage::NONE);
    measured
}

async fn simulate(n: u32, workload: Workload, length: Length) -> Measured {
    let mut dice = Dice::new(SEED);
    let services = [Service::Location, Service::Rides, Service::Match, Service::Users];
    let processes = services.into_iter().flat_map(|service| (1..=n as usize).map(move |i| Process::new(service, i)));
    let mut configs = Configs::of_production();
    configs.matching.partition = Partition::new(zones(), ZONE_M);
    let mut scene = Scene::new(SEED, false, processes.collect(), configs);
    scene.bus = scene.bus.for_several_processes();
    let scene = Arc::new(scene);
    let mut tasks = JoinSet::new();
    for process in &scene.processes {
        tasks.spawn(process.clone().supervise(scene.clone(), Dice::new(dice.roll())));
    }
    while scene.processes.iter().any(|process| !process.unhealthy().is_empty()) {
        sleep(Duration::from_millis(100)).await;
    }
    let people = sign_in(&scene, workload).await;
    // Nothing of the sign-ins is under way any more.
    sleep(Duration::from_secs(5)).await;
    scene.faults.set_costs(COSTS);
    let world = scene.world.clone();
    let counts = people.start(workload, Arc::new(move || world.now()), &mut tasks);
    sleep(length.warm_up).await;
    scene.faults.set_costs(COSTS);
    let before = done(&scene, workload, &counts).await;
    let refused = counts.refused();
    sleep(length.measured).await;
    let done = done(&scene, workload, &counts).await - before;
    let mut work: BTreeMap<&'static str, Work> = BTreeMap::new();
    for process in &scene.processes {
        let of_process = process.faults().map(|faults| faults.work()).unwrap_or_default();
        let of_service = work.entry(process.service.name()).or_default();
        of_service.busy += of_process.busy;
        of_service.transactions += of_process.transactions;
        of_service.hops += of_process.hops;
        of_service.waited_for_rows += of_process.waited_for_rows;
    }
    let refused = counts.refused() - refused;
    tasks.abort_all();
    assert_eq!(scene.log().violations, Vec::<String>::new(), "{n} processes");
    Measured { n, per_s: done as f64 / length.measured.as_secs_f64(), work, measured: length.measured, refused }
}

async fn sign_in(scene: &Arc<Scene>, workload: Workload) -> BusyPeople {
    let users: Vec<Arc<Process>> =
        scene.processes.iter().filter(|process| process.service == Service::Users).cloned().collect();
    let population = Population {
        transport: transport(scene),
        urls: users.iter().map(|process| format!("http://{}:80", process.name)).collect(),
        run_id: SEED,
        passengers: if workload == Workload::Matches { PASSENGERS } else { 0 },
        drivers: DRIVERS,
    };
    // A frame is a message of the process that the client is connected to.
    let on_frame = move |process: usize| {
        if let Some(faults) = users[process].faults() {
            faults.add_hops(1);
        }
    };
    BusyPeople::sign_in(&population, Arc::new(on_frame)).await.unwrap()
}

/// Matches or positions so far.
async fn done(scene: &Scene, workload: Workload, counts: &Counts) -> u64 {
    match workload {
        Workload::Matches => counts.matches(),
        Workload::Positions => {
            let (bus, mut read) = (Bus::Memory(scene.bus.clone()), u64::MAX);
            for reader in ["location_update_location", "location_update_match"] {
                read = read.min(bus.consumer_info("LOCATION_STREAM", reader).await.unwrap().ack_floor);
            }
            read
        }
    }
}

fn curve(workload: Workload, numbers: &[u32], length: Length, sabotage: Sabotage) -> (Vec<Measured>, Scalability) {
    let measured: Vec<Measured> = numbers
        .iter()
        .map(|n| {
            let measured = measure(*n, workload, length, sabotage);
            println!("{measured}");
            measured
        })
        .collect();
    let points: Vec<(u32, f64)> = measured.iter().map(|m| (m.n, m.per_s)).collect();
    let fitted = fit(&points).expect("a curve has one process and more");
    println!("{workload:?}: sigma {:.4}, kappa {:.5}", fitted.sigma, fitted.kappa);
    (measured, fitted)
}

fn zones() -> u16 {
    std::env::var("SCALE_ZONES").map_or(ZONES, |text| text.parse().expect("SCALE_ZONES is a number"))
}

/// What `scripts/scale` runs, with more processes and for longer.
#[test]
fn table_of_scale() {
    let more = std::env::var("SCALE_N").ok().map(|text| {
        text.split(',').map(|n| n.parse().unwrap_or_else(|_| panic!("SCALE_N: `{n}` is no number"))).collect()
    });
    let (numbers, length): (Vec<u32>, Length) = more.map_or((FEW.to_vec(), SHORT), |numbers| (numbers, LONG));
    for workload in [Workload::Positions, Workload::Matches] {
        let (measured, _) = curve(workload, &numbers, length, Sabotage::NONE);
        for measured in &measured {
            let busiest = measured.work.values().map(|work| measured.busy(work)).fold(0.0, f64::max);
            assert!(busiest > 0.95, "{workload:?}: the load is less than {} processes can do", measured.n);
        }
        if let [one, many] = &measured[..] {
            assert!(efficiency(one, many) > ENOUGH, "{workload:?}\n{one}\n{many}");
        }
    }
}

/// How much more many processes do than one, as a part of what would be proportional.
fn efficiency(one: &Measured, many: &Measured) -> f64 {
    many.per_s / one.per_s / f64::from(many.n)
}

fn sabotaged(workload: Workload, sabotage: Sabotage) -> f64 {
    let [one, many] = FEW.map(|n| measure(n, workload, SHORT, sabotage));
    println!("{workload:?} {sabotage:?}\n{one}\n{many}");
    efficiency(&one, &many)
}

#[test]
fn a_lock_that_all_transactions_take_is_seen() {
    let sabotage = Sabotage { one_transaction_at_a_time: true, ..Sabotage::NONE };
    assert!(sabotaged(Workload::Matches, sabotage) < ENOUGH);
}

#[test]
fn positions_that_every_process_reads_are_seen() {
    let sabotage = Sabotage { all_positions_to_all: true, ..Sabotage::NONE };
    assert!(sabotaged(Workload::Positions, sabotage) < ENOUGH);
}

#[test]
fn the_numbers_are_the_same_at_every_run() {
    for workload in [Workload::Matches, Workload::Positions] {
        let measure = || measure(2, workload, SHORT, Sabotage::NONE);
        assert_eq!(measure(), measure());
    }
}
