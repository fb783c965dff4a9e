//! Memory for each connected client.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use crate::table::{self, Row};
use crate::target::Target;

/// Idle sockets that are opened; four for each person.
const SOCKETS: usize = 1_000;
const SOCKETS_EACH: usize = 4;
/// From opening sockets until memory is read.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) fn row(name: &str, bytes_each: u64) -> Row {
    table::row(name, format!("{:.1} KiB", bytes_each as f64 / 1024.0), "–", "–")
}

pub(crate) async fn of_idle_sockets(target: &Target) -> Result<Row> {
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
    sleep(SETTLE).await;
    let each = target.resident_bytes()?.saturating_sub(before) / open.len() as u64;
    Ok(row("memory for each idle socket", each))
}
