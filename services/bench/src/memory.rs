//! Memory for each connected client: the resident memory of the platform's process. The kernel's buffers of a socket are not in it.

use std::time::Duration;

use anyhow::Result;
use platform::World;
use serde_json::json;
use tokio::time::sleep;

use crate::location;
use crate::table::{self, Row};
use crate::target::{Client, Connected, Target, connect, place};

/// Idle sockets that are opened; four for each person.
const SOCKETS: usize = 4_000;
const SOCKETS_EACH: usize = 4;
/// One of so many parts: the first part of the sockets, and all but the last part of the drivers, are not measured. They load code, fill
/// pools and caches, and what signing in and earlier commands have left free in the process. They stay connected.
const PART: usize = 4;
/// Positions that a driver sends.
const POSITIONS: usize = 5;
/// From one command to the next: so the most memory that commands in progress ever needed, which stays with the process, is of a few.
const PAUSE: Duration = Duration::from_millis(4);
/// From what is measured until memory is read.
const SETTLE: Duration = Duration::from_secs(2);

/// What one client costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost(u64);

impl Cost {
    async fn since(before: u64, target: &Target, clients: usize) -> Result<Self> {
        sleep(SETTLE).await;
        Ok(Self(target.resident_bytes()?.saturating_sub(before) / clients.max(1) as u64))
    }

    fn row(self, name: &str, mark: &'static str) -> Row {
        table::row(name, format!("{:.1} KiB", self.0 as f64 / 1024.0), mark, "–")
    }
}

/// What an idle socket costs, and what an online driver costs beyond it: in the gateway, in the indices of location and match, and in their
/// caches. Returns `count` online drivers as well.
///
/// Everybody signs in before anything is measured: that leaves much free memory in the process, and what is connected first goes there.
pub(crate) async fn measure(target: &Target, world: &World, count: usize) -> Result<(Connected, [Row; 3])> {
    let people = target.idle_people(SOCKETS / SOCKETS_EACH).await?;
    let mut first = target.driver_people(count).await?;
    let measured_drivers = first.split_off(count - count / PART);
    eprintln!("{SOCKETS} idle sockets …");
    let mut sockets: Vec<_> = people.iter().flat_map(|person| [person; SOCKETS_EACH]).collect();
    let measured = sockets.split_off(SOCKETS / PART);
    let mut open = Vec::new();
    for person in sockets {
        open.push(person.connect().await?);
    }
    sleep(SETTLE).await;
    let before = target.resident_bytes()?;
    for person in &measured {
        open.push(person.connect().await?);
    }
    let idle = Cost::since(before, target, measured.len()).await?;
    eprintln!("{count} drivers come online …");
    let (mut drivers, mut frames) = connect(first).await?;
    drive(world, &drivers, 0).await?;
    sleep(SETTLE).await;
    let before = target.resident_bytes()?;
    let (more, theirs) = connect(measured_drivers).await?;
    drive(world, &more, drivers.len()).await?;
    let driver = Cost::since(before, target, more.len()).await?;
    drivers.extend(more);
    frames.extend(theirs);
    let rows = [
        idle.row("memory for each idle socket", "12 KiB"),
        driver.row("memory for each online driver", "20 KiB"),
        Cost(driver.0.saturating_sub(idle.0)).row("  of it beyond the socket", "8 KiB"),
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
