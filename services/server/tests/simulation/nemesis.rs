//! Which faults are injected, when and where: each seed has another mix, so that each run stresses something else.

use std::sync::Arc;
use std::time::Duration;

use streams::Service;
use streams::simulation::{Dice, Fault};
use tokio::time::{Instant, sleep};

use crate::processes::{End, Process};
use crate::scene::Scene;

/// A fault of a process, a client or a stream, injected at a moment. (`Fault` is one that strikes by chance, at a rate.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    /// A process dies at some point soon.
    Crash,
    /// A process dies now.
    Kill,
    /// A process ends by SIGTERM and is started again.
    Restart,
    /// A process runs no task for a while.
    Freeze,
    /// Both processes of a service are gone for minutes.
    Away,
    /// A process cannot reach the bus.
    BusAway,
    /// A service cannot reach its database.
    StoreAway,
    /// A client's connection is cut.
    Cut,
    /// The duplicate windows of all streams are over.
    Forget,
    /// Every process that handles a certain message hangs or dies, until its deliveries are used up: the sweeper must find it.
    Doom,
}

const STRIKES: [Strike; 10] = [
    Strike::Crash,
    Strike::Kill,
    Strike::Restart,
    Strike::Freeze,
    Strike::Away,
    Strike::BusAway,
    Strike::StoreAway,
    Strike::Cut,
    Strike::Forget,
    Strike::Doom,
];

/// Consumers whose messages a city can do without until they are requeued: they fill mailboxes, and nothing else.
pub(crate) const DOOMED: [&str; 2] = ["user_beacon_users", "location_aggregate_users"];

/// The mix of one seed.
#[derive(Debug)]
pub(crate) struct Mix {
    rates: Vec<(Fault, u64)>,
    strikes: Vec<Strike>,
    pause_ms: u64,
}

impl Mix {
    pub(crate) fn of(dice: &mut Dice) -> Self {
        let some = [10, 50, 150, 500];
        let mut rates = Vec::new();
        for fault in Fault::ALL {
            // A fault with fewer opportunities gets a higher rate.
            let weight = match fault {
                Fault::DeliveryShuffled => 20,
                Fault::RequestLost | Fault::RequestUnanswered => 6,
                Fault::DeliveryLate | Fault::DeliveryTwice | Fault::AckLost => 2,
                _ => 1,
            };
            if dice.percent(50) {
                rates.push((fault, weight * some[usize::try_from(dice.below(4)).unwrap_or(0)]));
            }
        }
        let strikes = STRIKES.into_iter().filter(|_| dice.percent(55)).collect();
        Self { rates, strikes, pause_ms: 4_000 + dice.below(20_000) }
    }
}

/// Injects faults until it is dropped.
pub(crate) async fn inject(scene: Arc<Scene>, mix: Mix, mut dice: Dice) {
    for (fault, rate) in &mix.rates {
        scene.faults.set_rate(*fault, *rate);
    }
    if mix.strikes.is_empty() {
        return std::future::pending().await;
    }
    loop {
        sleep(dice.millis(mix.pause_ms / 4, mix.pause_ms)).await;
        let strike = mix.strikes[usize::try_from(dice.below(mix.strikes.len() as u64)).unwrap_or(0)];
        let process = scene.processes[usize::try_from(dice.below(scene.processes.len() as u64)).unwrap_or(0)].clone();
        if scene.faults.is_calm() {
            continue;
        }
        {
            let mut log = scene.log();
            log.remark(&format!("{strike:?} {}", process.name));
            *log.injected.entry(name(strike)).or_default() += 1;
        }
        inject_now(&scene, strike, &process, &mut dice);
    }
}

fn inject_now(scene: &Scene, strike: Strike, process: &Process, dice: &mut Dice) {
    let now = Instant::now();
    let faults = process.faults();
    match strike {
        Strike::Crash => drop(faults.map(|faults| faults.die_after(dice.below(120)))),
        Strike::Kill => process.end(End::Kill, None),
        Strike::Restart => process.end(End::Stop, None),
        Strike::Freeze => drop(faults.map(|faults| faults.freeze_until(now + dice.millis(500, 45_000)))),
        Strike::Away => {
            let until = now + dice.millis(15_000, 150_000);
            for other in of(scene, process.service) {
                other.end(End::Kill, Some(until));
            }
        }
        Strike::BusAway => drop(faults.map(|faults| faults.bus_unreachable_until(now + dice.millis(500, 25_000)))),
        Strike::StoreAway => {
            let until = now + dice.millis(500, 40_000);
            for faults in of(scene, process.service).filter_map(|p| p.faults()) {
                faults.store_unreachable_until(until);
            }
        }
        Strike::Cut => {
            let mut open: Vec<_> = scene.processes.iter().flat_map(|process| process.connections()).collect();
            if !open.is_empty() {
                open.swap_remove(usize::try_from(dice.below(open.len() as u64)).unwrap_or(0)).abort();
            }
        }
        Strike::Forget => scene.bus.forget_message_ids(),
        Strike::Doom => {
            let consumer = DOOMED[usize::try_from(dice.below(DOOMED.len() as u64)).unwrap_or(0)];
            if dice.percent(50) {
                scene.faults.die_on_next(consumer);
            } else {
                scene.faults.hang_on_next(consumer);
            }
        }
    }
}

fn of(scene: &Scene, service: Service) -> impl Iterator<Item = &Arc<Process>> {
    scene.processes.iter().filter(move |process| process.service == service)
}

const fn name(strike: Strike) -> &'static str {
    match strike {
        Strike::Crash => "crash",
        Strike::Kill => "kill",
        Strike::Restart => "restart",
        Strike::Freeze => "freeze",
        Strike::Away => "away",
        Strike::BusAway => "bus away",
        Strike::StoreAway => "database away",
        Strike::Cut => "cut",
        Strike::Forget => "ids forgotten",
        Strike::Doom => "doom",
    }
}

/// Ends all faults; every process may start again.
pub(crate) fn heal(scene: &Scene) {
    scene.faults.heal();
    scene.log().remark("healed");
    for process in &scene.processes {
        process.come_back();
    }
}

/// The pause between two checks of whether all is at rest.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);
