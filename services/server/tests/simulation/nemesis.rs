//! What goes wrong, when and to whom: by the seed a different mix each time, so that each run is bad at something else.

use std::sync::Arc;
use std::time::Duration;

use streams::Service;
use streams::simulation::{Dice, Fault};
use tokio::time::{Instant, sleep};

use crate::processes::{End, Process};
use crate::scene::Scene;

/// What is done to processes and clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// A process dies at some point soon.
    Crash,
    /// A process dies now.
    Kill,
    /// A process is stopped by SIGTERM and started again.
    Restart,
    /// A process stands still.
    Freeze,
    /// Both processes of a service are gone for minutes.
    Away,
    /// A process does not reach the bus.
    BusAway,
    /// A service does not reach its database.
    StoreAway,
    /// Somebody's connection is cut.
    Cut,
    /// The streams forget which ids they have seen.
    Forget,
    /// Whoever takes a message hangs with it or dies of it, until the bus gives it up: the sweeper must find it.
    Doom,
}

const BLOWS: [Blow; 10] = [
    Blow::Crash,
    Blow::Kill,
    Blow::Restart,
    Blow::Freeze,
    Blow::Away,
    Blow::BusAway,
    Blow::StoreAway,
    Blow::Cut,
    Blow::Forget,
    Blow::Doom,
];

/// Consumers without which a city can do until their messages are requeued: they fill mailboxes, and nothing else.
pub(crate) const DOOMED: [&str; 2] = ["user_beacon_users", "location_aggregate_users"];

/// The mix of one seed.
#[derive(Debug)]
pub(crate) struct Mix {
    rates: Vec<(Fault, u64)>,
    blows: Vec<Blow>,
    pause_ms: u64,
}

impl Mix {
    pub(crate) fn of(dice: &mut Dice) -> Self {
        let some = [10, 50, 150, 500];
        let mut rates = Vec::new();
        for fault in Fault::ALL {
            // What has few opportunities takes more of them.
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
        let blows = BLOWS.into_iter().filter(|_| dice.percent(55)).collect();
        Self { rates, blows, pause_ms: 4_000 + dice.below(20_000) }
    }
}

/// Does its worst until it is dropped.
pub(crate) async fn rage(scene: Arc<Scene>, mix: Mix, mut dice: Dice) {
    for (fault, rate) in &mix.rates {
        scene.faults.set_rate(*fault, *rate);
    }
    if mix.blows.is_empty() {
        return std::future::pending().await;
    }
    loop {
        sleep(dice.millis(mix.pause_ms / 4, mix.pause_ms)).await;
        let blow = mix.blows[usize::try_from(dice.below(mix.blows.len() as u64)).unwrap_or(0)];
        let process = scene.processes[usize::try_from(dice.below(scene.processes.len() as u64)).unwrap_or(0)].clone();
        if scene.faults.is_calm() {
            continue;
        }
        {
            let mut log = scene.log();
            log.remark(&format!("{blow:?} {}", process.name));
            *log.made.entry(name(blow)).or_default() += 1;
        }
        strike(&scene, blow, &process, &mut dice);
    }
}

fn strike(scene: &Scene, blow: Blow, process: &Process, dice: &mut Dice) {
    let now = Instant::now();
    let faults = process.faults();
    match blow {
        Blow::Crash => drop(faults.map(|faults| faults.die_after(dice.below(120)))),
        Blow::Kill => process.end(End::Kill, None),
        Blow::Restart => process.end(End::Stop, None),
        Blow::Freeze => drop(faults.map(|faults| faults.freeze_until(now + dice.millis(500, 45_000)))),
        Blow::Away => {
            let until = now + dice.millis(15_000, 150_000);
            for other in of(scene, process.service) {
                other.end(End::Kill, Some(until));
            }
        }
        Blow::BusAway => drop(faults.map(|faults| faults.bus_unreachable_until(now + dice.millis(500, 25_000)))),
        Blow::StoreAway => {
            let until = now + dice.millis(500, 40_000);
            for faults in of(scene, process.service).filter_map(|p| p.faults()) {
                faults.store_unreachable_until(until);
            }
        }
        Blow::Cut => {
            let mut lines: Vec<_> = scene.processes.iter().flat_map(|process| process.lines()).collect();
            if !lines.is_empty() {
                lines.swap_remove(usize::try_from(dice.below(lines.len() as u64)).unwrap_or(0)).abort();
            }
        }
        Blow::Forget => scene.bus.forget_message_ids(),
        Blow::Doom => {
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

const fn name(blow: Blow) -> &'static str {
    match blow {
        Blow::Crash => "crash",
        Blow::Kill => "kill",
        Blow::Restart => "restart",
        Blow::Freeze => "freeze",
        Blow::Away => "away",
        Blow::BusAway => "bus away",
        Blow::StoreAway => "database away",
        Blow::Cut => "cut",
        Blow::Forget => "ids forgotten",
        Blow::Doom => "doom",
    }
}

/// Nothing goes wrong any more, and everything comes back.
pub(crate) fn heal(scene: &Scene) {
    scene.faults.heal();
    scene.log().remark("healed");
    for process in &scene.processes {
        process.come_back();
    }
}

/// The pause between two looks at whether all is at rest.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);
