//! One simulation from its seed, and many of them: the run of `scripts/test` and of `scripts/simulate-faults`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once, mpsc};
use std::time::Duration;

use futures_util::future::join;
use matching::zones::Partition;
use streams::Service;
use streams::simulation::{Dice, Sabotage, set_sabotage};
use testing::MustEnd;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::nemesis::{self, Mix};
use crate::processes::{Configs, Process};
use crate::scene::Scene;
use crate::{checks, city, inbox};

/// The share of a run with faults, in percent; in the rest everything must come to rest.
const FAULTS_PERCENT: u32 = 92;
/// The longest that it may take from the last fault until all is at rest.
const REST_MAX: Duration = Duration::from_secs(300);
/// Everything must be at rest for so long.
const REST_FOR: Duration = Duration::from_secs(4);
/// Before the first fault everybody must have signed in: the simulator does not repeat a failed sign-in.
const SIGN_IN: Duration = Duration::from_secs(5);

/// The result of a run.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Ran {
    hash: u64,
    violations: Vec<String>,
    simulated: Duration,
    rest: Duration,
    faults: BTreeMap<String, u64>,
    events: u64,
    repeats: u64,
    rides: u64,
    letters: u64,
    lines: Option<Vec<String>>,
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Counts panics, also those that the program catches.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            print(panic);
        }));
    });
}

/// Runs one seed.
pub(crate) fn run(seed: u64, minutes: u32, zones: u16, sabotage: Sabotage, with_lines: bool) -> Ran {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    set_sabotage(sabotage);
    count_panics();
    PANICS.set(0);
    let mut ran = runtime.block_on(simulate(seed, minutes, zones, with_lines));
    // Dropping its tasks may panic as well.
    drop(runtime);
    set_sabotage(Sabotage::default());
    let panics = PANICS.get();
    if panics > 0 {
        ran.violations.push(format!("{panics} panics"));
    }
    ran
}

/// How match divides the map: in zones with small cells, so that their borders are everywhere in the city.
fn partition(seed: u64, zones: u16) -> Partition {
    Partition::new(zones, [700, 1_500, 4_000, 10_000][usize::try_from(seed % 4).unwrap_or(0)])
}

async fn simulate(seed: u64, minutes: u32, zones: u16, with_lines: bool) -> Ran {
    let mut dice = Dice::new(seed);
    let services = [Service::Location, Service::Rides, Service::Match, Service::Users];
    let count = |service| if service == Service::Match && zones > 1 { 3 } else { 2 };
    let processes =
        services.into_iter().flat_map(|service| (1..=count(service)).map(move |n| Process::new(service, n)));
    let scene =
        Arc::new(Scene::new(seed, with_lines, processes.collect(), Configs::of_fast_rides(partition(seed, zones))));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    tasks.spawn(scene.clone().record());
    for process in &scene.processes {
        tasks.spawn(process.clone().supervise(scene.clone(), Dice::new(dice.roll())));
    }
    while scene.processes.iter().any(|process| !process.unhealthy().is_empty()) {
        sleep(Duration::from_millis(100)).await;
    }
    let open_for = Duration::from_secs(60) * minutes * FAULTS_PERCENT / 100;
    let (to, observations) = mpsc::channel();
    tasks.spawn(scene.clone().observe(observations));
    let config = city::config(&scene, seed, open_for, &mut dice, to);
    scene.log().remark(&format!("{config:?}"));
    let faults = async {
        let mix = Mix::of(&mut dice);
        scene.log().remark(&format!("{mix:?}"));
        sleep(SIGN_IN).await;
        let injection = nemesis::inject(scene.clone(), mix, Dice::new(dice.roll()));
        drop(timeout(open_for - SIGN_IN, injection).await);
        nemesis::heal(&scene);
        Instant::now()
    };
    let (summary, healed) = join(simulator::run(config), faults).await;
    scene.log().day_is_over(&summary.unwrap());
    let mut rest = Duration::ZERO;
    if come_to_rest(&scene, healed, "after healing").await {
        rest = healed.elapsed();
        let wrong = inbox::requeue(&scene).await;
        wrong.into_iter().for_each(|what| scene.log().violation(what));
        let present = city::roll_call(&scene, seed).await;
        come_to_rest(&scene, Instant::now(), "after the roll call").await;
        let wrong = checks::all(&scene).await;
        let mut log = scene.log();
        wrong.into_iter().for_each(|what| log.violation(what));
        drop(present);
    }
    tasks.abort_all();
    let mut log = scene.log();
    let mut faults: BTreeMap<String, u64> = log.injected.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    faults.extend(scene.faults.counts().into_iter().map(|(fault, n)| (format!("{fault:?}"), n)));
    Ran {
        hash: log.hash(),
        violations: std::mem::take(&mut log.violations),
        simulated: began.elapsed(),
        rest,
        faults,
        events: log.published.len() as u64,
        repeats: log.repeats,
        rides: log.published.iter().filter(|e| e.subject == "ride.pickup").count() as u64,
        letters: log.letters,
        lines: log.lines.take(),
    }
}

async fn come_to_rest(scene: &Scene, since: Instant, when: &str) -> bool {
    let until = since + REST_MAX;
    let mut at_rest_since = None;
    loop {
        let unrest = checks::unrest(scene).await;
        let now = Instant::now();
        if unrest.is_empty() {
            if now >= *at_rest_since.get_or_insert(now) + REST_FOR {
                return true;
            }
        } else if now >= until {
            let mut log = scene.log();
            unrest.into_iter().for_each(|what| log.violation(format!("not at rest {when}: {what}")));
            return false;
        } else {
            at_rest_since = None;
        }
        sleep(nemesis::LOOK_EVERY).await;
    }
}

/// Sums of many simulations; each must be judged.
#[derive(Debug)]
struct Sums {
    judged: MustEnd,
    seeds: u64,
    simulated: Duration,
    rest_max: Duration,
    faults: BTreeMap<String, u64>,
    events: u64,
    repeats: u64,
    rides: u64,
    letters: u64,
    hashes: BTreeMap<u64, u64>,
    failed: BTreeMap<u64, Vec<String>>,
}

impl Sums {
    fn new() -> Self {
        Self {
            judged: MustEnd::new("Sums::judge"),
            seeds: 0,
            simulated: Duration::ZERO,
            rest_max: Duration::ZERO,
            faults: BTreeMap::new(),
            events: 0,
            repeats: 0,
            rides: 0,
            letters: 0,
            hashes: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    fn add(&mut self, seed: u64, ran: Ran) {
        self.seeds += 1;
        self.simulated += ran.simulated;
        self.rest_max = self.rest_max.max(ran.rest);
        for (fault, n) in ran.faults {
            *self.faults.entry(fault).or_default() += n;
        }
        self.events += ran.events;
        self.repeats += ran.repeats;
        self.rides += ran.rides;
        self.letters += ran.letters;
        self.hashes.insert(seed, ran.hash);
        if !ran.violations.is_empty() {
            self.failed.insert(seed, ran.violations);
        }
    }
}

impl Sums {
    /// Fails if anything was wrong, or if too little happened.
    fn judge(mut self) {
        self.judged.reached();
        for (seed, wrong) in &self.failed {
            println!("seed {seed} (scripts/simulate-faults --show --seed {seed}):");
            wrong.iter().take(12).for_each(|what| println!("    {what}"));
        }
        assert!(self.failed.is_empty(), "{} of {} seeds: {:?}", self.failed.len(), self.seeds, self.failed.keys());
        assert!(self.rides >= self.seeds, "the runs were idle: {} rides", self.rides);
    }
}

/// Runs `seed` twice; that the two runs differ is a violation, too.
fn run_twice(seed: u64, minutes: u32, zones: u16) -> Ran {
    let mut one = run(seed, minutes, zones, Sabotage::default(), false);
    let two = run(seed, minutes, zones, Sabotage::default(), false);
    if one.hash != two.hash {
        let [a, b] = [0, 1].map(|_| run(seed, minutes, zones, Sabotage::default(), true).lines.unwrap_or_default());
        let differ = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(0);
        let around = |lines: &[String]| lines[differ.saturating_sub(2)..(differ + 2).min(lines.len())].join("\n");
        one.violations.push(format!("two runs differ:\n{}\n--\n{}", around(&a), around(&b)));
    }
    one.simulated += two.simulated;
    one
}

/// Of up to `most` zones: 2, 3, 4 … in turn; with 1 there is one.
fn zones_of(seed: u64, most: u64) -> u16 {
    u16::try_from(if most <= 1 { 1 } else { 2 + seed % (most - 1) }).unwrap_or(1)
}

fn many(first: u64, seeds: u64, minutes: u32, zones: u64) -> Sums {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicU64::new(first);
    let mut sums = Sums::new();
    std::thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + seeds {
                    return done;
                }
                done.push((seed, run_twice(seed, minutes, zones_of(seed, zones))));
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            for (seed, ran) in worker.join().unwrap() {
                sums.add(seed, ran);
            }
        }
    });
    sums
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: `{text}` is no number")))
}

/// What `scripts/simulate-faults` runs; without its settings, two short runs.
#[test]
fn simulate_faults() {
    let (seeds, first) = (setting("SIMULATION_SEEDS", 2), setting("SIMULATION_SEED", 100_001));
    let minutes = u32::try_from(setting("SIMULATION_MINUTES", 2)).unwrap();
    let began = wall();
    let sums = many(first, seeds, minutes, setting("SIMULATION_ZONES", 1));
    let wall_minutes = (wall() - began) as f64 / 60_000.0;
    let hours = sums.simulated.as_secs_f64() / 3_600.0;
    println!(
        "{} seeds from {first}, each twice: {hours:.1} simulated hours in {wall_minutes:.1} minutes, \
         {:.0} simulated hours per wall minute",
        sums.seeds,
        hours / wall_minutes
    );
    println!("{} rides, {} events, {} repeats of them", sums.rides, sums.events, sums.repeats);
    println!("{} messages dead-lettered by the sweeper and requeued", sums.letters);
    println!("at rest at most {:.0} s after the last fault", sums.rest_max.as_secs_f64());
    println!("faults: {:?}", sums.faults);
    // Equal before and after a change that moves or renames code.
    let hashes: Vec<String> = sums.hashes.iter().map(|(seed, hash)| format!("{seed}={hash:016x}")).collect();
    println!("hashes: {}", hashes.join(" "));
    sums.judge();
}

macro_rules! seeds {
    ($($name:ident: $first:literal, $zones:literal);+ $(;)?) => {
        $(#[test]
        fn $name() {
            let mut sums = Sums::new();
            let is_repeated = $first % 20 == 1;
            let zones = |seed| zones_of(seed, $zones);
            let once = |seed| run(seed, 10, zones(seed), Sabotage::default(), false);
            sums.add($first, if is_repeated { run_twice($first, 10, zones($first)) } else { once($first) });
            for seed in $first + 1..$first + 5 {
                sums.add(seed, once(seed));
            }
            sums.judge();
        })+
    };
}

// Ten seeds of ten minutes each, in parts that run beside each other; the first of them runs twice, and must do the same again.
// `scripts/simulate-faults` runs every seed twice, and as many as `--seeds` says: 200 before a release.
seeds!(
    seeds_1_to_5: 1, 1;
    seeds_6_to_10: 6, 1;
    seeds_201_to_205_with_zones: 201, 4;
    seeds_206_to_210_with_zones: 206, 4;
);

#[expect(clippy::disallowed_methods, reason = "the speed of the simulation is measured by the wall's clock")]
fn wall() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// One seed with every line, to find a fault: `scripts/simulate-faults --show`.
#[test]
fn a_seed_in_full() {
    let seed = setting("SIMULATION_SEED", 1);
    let zones = zones_of(seed, setting("SIMULATION_ZONES", 1));
    let ran = run(seed, u32::try_from(setting("SIMULATION_MINUTES", 2)).unwrap(), zones, Sabotage::default(), true);
    for line in ran.lines.iter().flatten() {
        println!("{line}");
    }
    assert_eq!(ran.violations, Vec::<String>::new());
}

/// A message that every process dies of or hangs with is dead-lettered by the sweeper alone.
#[test]
fn a_message_that_every_process_dies_of_or_hangs_with_is_dead_lettered() {
    let dead_lettered =
        (1..=20).map(|seed| (seed, run(seed, 10, 1, Sabotage::default(), false))).find(|(_, ran)| ran.letters > 0);
    let (seed, ran) = dead_lettered.expect("in 20 seeds no message used up its deliveries");
    assert_eq!(ran.violations, Vec::<String>::new(), "seed {seed}");
}

/// Prints the first of 200 seeds, from `first` on, that finds `sabotage`; fails if none does. `first` found it when this was written: it
/// only saves time.
fn first_red(first: u64, zones: u64, sabotage: Sabotage, expected: &[&str]) {
    for seed in first..first + 200 {
        let ran = run(seed, 10, zones_of(seed, zones), sabotage, false);
        let violation = ran.violations.iter().find(|what| expected.iter().any(|text| what.contains(text)));
        if let Some(violation) = violation {
            println!("{sabotage:?}: seed {seed}: {violation}");
            return;
        }
    }
    panic!("{sabotage:?}: not seen in 200 seeds");
}

#[test]
fn a_missing_inbox_is_detected() {
    first_red(1, 1, Sabotage { no_inbox: true, ..Sabotage::default() }, &["dead letter"]);
}

#[test]
fn a_missing_hold_is_detected() {
    first_red(1, 1, Sabotage { no_hold: true, ..Sabotage::default() }, &["is in two offers"]);
}

#[test]
fn a_missing_version_check_is_detected() {
    first_red(13, 1, Sabotage { no_version_check: true, ..Sabotage::default() }, &["not free"]);
}

#[test]
fn a_zone_that_does_not_look_at_rides_of_others_is_detected() {
    first_red(201, 4, Sabotage { no_ride_check: true, ..Sabotage::default() }, &["is in two offers"]);
}

#[test]
fn a_missing_unique_live_ride_is_detected() {
    // The hold of match is the first guard, and rarely lets two acceptances through: it is off too.
    let sabotage = Sabotage { no_unique_live_ride: true, no_hold: true, ..Sabotage::default() };
    first_red(1, 1, sabotage, &["is in two rides"]);
}
