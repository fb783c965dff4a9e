//! Memory for each connected client: the resident memory of the platform's process. The kernel's buffers of a socket are not in it.

use std::time::Duration;

use anyhow::Result;
use platform::World;
use serde_json::json;
use tokio::time::sleep;

use crate::location;
use crate::table::{self, Row};
use crate::target::{Connected, Target, connect, place};

/// Idle sockets that are opened; four for each person.
const SOCKETS: usize = 1_000;
const SOCKETS_EACH: usize = 4;
/// Positions that a driver sends.
const POSITIONS: usize = 5;
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

pub(crate) async fn of_idle_sockets(target: &Target) -> Result<(Cost, Row)> {
    eprintln!("{SOCKETS} idle sockets …");
    let people = target.idle_people(SOCKETS / SOCKETS_EACH).await?;
    // The first connections also load code and fill pools and caches.
    for person in &people {
        drop(person.connect().await?);
    }
    sleep(SETTLE).await;
    let before = target.resident_bytes()?;
    let mut open = Vec::new();
    for person in &people {
        for _ in 0..SOCKETS_EACH {
            open.push(person.connect().await?);
        }
    }
    let cost = Cost::since(before, target, open.len()).await?;
    Ok((cost, cost.row("memory for each idle socket", "12 KiB")))
}

/// Connects `count` drivers who come online and send a few positions, and measures what each costs beyond its `socket`: rows of the caches
/// in every service, the state of the driver in the gateway, the driver in the indices of location and match.
pub(crate) async fn of_online_drivers(
    target: &Target,
    world: &World,
    count: usize,
    socket: Cost,
) -> Result<(Connected, [Row; 2])> {
    let people = target.driver_people(count).await?;
    for person in &people {
        drop(person.connect().await?);
    }
    sleep(SETTLE).await;
    let before = target.resident_bytes()?;
    let (drivers, frames) = connect(people).await?;
    for (n, driver) in drivers.iter().enumerate() {
        driver.send(Some("b"), "beacon.update", &json!({"active": true, "location": place(n)})).await?;
    }
    for _ in 0..POSITIONS {
        for (n, driver) in drivers.iter().enumerate() {
            driver.send(None, "location.update", &location::frame(world, &place(n), 1)).await?;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let all = Cost::since(before, target, count).await?;
    let rows = [
        all.row("memory for each online driver", "20 KiB"),
        Cost(all.0.saturating_sub(socket.0)).row("  of it beyond the socket", "8 KiB"),
    ];
    Ok(((drivers, frames), rows))
}
