//! Memory for each connected client: the resident memory of the platform's process. The kernel's buffers of a socket are not in it.

use std::time::Duration;

use anyhow::Result;
use platform::World;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::location;
use crate::table::{self, Row};
use crate::target::{Client, Connected, Target, connect, place};

/// Idle sockets that are opened; four for each person.
const SOCKETS: usize = 4_000;
const SOCKETS_EACH: usize = 4;
/// The first part of so many of the sockets, and half of the drivers, are not measured. They load code, fill pools and caches, and what
/// signing in and earlier commands have left free in the process. They stay connected.
const PART: usize = 4;
/// Positions that a driver sends.
const POSITIONS: usize = 5;
/// From one command to the next: so the most memory that commands in progress ever needed, which stays with the process, is of a few.
const PAUSE: Duration = Duration::from_millis(4);
/// For how long memory is read after what is measured, and how often. The least of it counts: what the process does by timers needs up to
/// 8 MiB for a moment, which would be 16 KiB for each of 500 drivers.
const SETTLE: Duration = Duration::from_secs(8);
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// What one client costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost(u64);

async fn settled(target: &Target) -> Result<u64> {
    let (until, mut least) = (Instant::now() + SETTLE, target.resident_bytes()?);
    while Instant::now() < until {
        sleep(SAMPLE_INTERVAL).await;
        least = least.min(target.resident_bytes()?);
    }
    Ok(least)
}

impl Cost {
    async fn since(before: u64, target: &Target, clients: usize) -> Result<Self> {
        Ok(Self(settled(target).await?.saturating_sub(before) / clients.max(1) as u64))
    }

    fn row(self, name: &str, mark: &'static str) -> Row {
        table::row(name, format!("{:.1} KiB", self.0 as f64 / 1024.0), mark, "–")
    }
}

/// What an idle socket costs, and what an online driver costs beyond it: in the gateway, in the indices of location and match, and in their
/// caches. Returns `count` online drivers as well. The more there are, the more exact it is.
///
/// Everybody signs in before anything is measured: that leaves much free memory in the process, and what is connected first goes there.
pub(crate) async fn measure(target: &Target, world: &World, count: usize) -> Result<(Connected, [Row; 3])> {
    let people = target.idle_people(SOCKETS / SOCKETS_EACH).await?;
    let mut first = target.driver_people(count).await?;
    let measured_drivers = first.split_off(count / 2);
    eprintln!("{SOCKETS} idle sockets …");
    let mut sockets: Vec<_> = people.iter().flat_map(|person| [person; SOCKETS_EACH]).collect();
    let measured = sockets.split_off(SOCKETS / PART);
    let mut open = Vec::new();
    for person in sockets {
        open.push(person.connect().await?);
    }
    let before = settled(target).await?;
    for person in &measured {
        open.push(person.connect().await?);
    }
    let idle = Cost::since(before, target, measured.len()).await?;
    eprintln!("{count} drivers come online …");
    let (mut drivers, mut frames) = connect(first).await?;
    drive(world, &drivers, 0).await?;
    let (more, theirs) = connect(measured_drivers).await?;
    let before = settled(target).await?;
    drive(world, &more, drivers.len()).await?;
    let beyond = Cost::since(before, target, more.len()).await?;
    drivers.extend(more);
    frames.extend(theirs);
    let rows = [
        idle.row("memory for each idle socket", "12 KiB"),
        Cost(idle.0 + beyond.0).row("memory for each online driver", "20 KiB"),
        beyond.row("  of it beyond the socket", "8 KiB"),
    ];
    Ok(((drivers, frames), rows))
}

/// Each comes online at a place of its own, from the `first` on, and sends a few positions.
async fn drive(world: &World, drivers: &[Client], first: usize) -> Result<()> {
    for (n, driver) in drivers.iter().enumerate() {
        driver.send(Some("b"), "beacon.update", &json!({"active": true, "location": place(first + n)})).await?;
        sleep(PAUSE).await;
    }
    for _ in 0..POSITIONS {
        for (n, driver) in drivers.iter().enumerate() {
            driver.send(None, "location.update", &location::frame(world, &place(first + n), 1)).await?;
            sleep(PAUSE).await;
        }
    }
    Ok(())
}
