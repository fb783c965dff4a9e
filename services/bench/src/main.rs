//! `rideshare-bench`: the platform measured on this machine, servers included, beside the raw bus in the same run.
//!
//! The platform is the program `rideshare` as a child process, on the NATS and PostgreSQL of NATS_URL and DATABASE_URL
//! (`scripts/bench` starts private ones). So its memory is its own, the load speaks only the contract, and one bench can measure
//! two builds: `--binary` names the program.

mod attack;
mod audit;
mod cpu;
mod location;
mod memory;
mod raw_bus;
mod ride;
mod scale;
mod table;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use platform::World;
use serde_json::json;
use tokio::time::sleep;

use table::Row;
use target::{Connected, Servers, Target, connect, place};

/// Measures the platform on this machine, beside the raw bus.
#[derive(Debug, Parser)]
#[command(name = "rideshare-bench", version, max_term_width = 110)]
struct Bench {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Drivers online for the match measurement.
    #[arg(long, default_value_t = 1_000)]
    drivers: usize,
    /// Events of RIDE_STREAM that `--only audit` writes, replays and verifies; it needs servers without rides.
    #[arg(long, default_value_t = 200_000)]
    events: usize,
    /// `--only guesses`: guesses of codes, and a tenth as many requests of codes.
    #[arg(long, default_value_t = 1_000_000)]
    guesses: u64,
    /// `--only attack`: honest drivers, and as many passengers.
    #[arg(long, default_value_t = 20)]
    people: usize,
    /// `--only scale`: the part of a core that each process is held to.
    #[arg(long, default_value_t = 0.1)]
    part: f64,
    /// `--only scale`: MATCH_ZONES of the processes.
    #[arg(long, default_value_t = 1)]
    zones: u32,
    /// Match and accept: only this many requests a second, instead of steps up to 2,000.
    #[arg(long)]
    rate: Option<u32>,
    /// Only measurements whose name contains this: memory, match, accept, location; or one of audit, attack, guesses and scale, which
    /// run only when they are named.
    #[arg(long)]
    only: Option<String>,
    /// The program to measure [default: `rideshare` beside this one].
    #[arg(long)]
    binary: Option<PathBuf>,
    #[command(flatten)]
    servers: Servers,
}

impl Bench {
    fn binary(&self) -> Result<PathBuf> {
        match &self.binary {
            Some(path) => Ok(path.clone()),
            None => Ok(std::env::current_exe()?.with_file_name("rideshare")),
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| name.contains(only))
    }
}

fn main() -> ExitCode {
    let bench = Bench::parse();
    let measured = tokio::runtime::Runtime::new().context("no runtime").and_then(|tokio| tokio.block_on(run(&bench)));
    match measured {
        // A missed mark is a result, and no failure.
        Ok(rows) => {
            if !rows.is_empty() {
                table::print(&rows);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("rideshare-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(bench: &Bench) -> Result<Vec<Row>> {
    let (binary, servers) = (bench.binary()?, &bench.servers);
    let world = World::real();
    // Only when named in full: it fills RIDE_STREAM with rides that a running platform would not know.
    if bench.only.as_deref() == Some("audit") {
        return audit::measure(&binary, servers, &world, bench.events).await;
    }
    let length = Duration::from_secs(bench.seconds.max(1));
    match bench.only.as_deref() {
        Some("scale") => return scale::measure(&binary, servers, &world, bench.part, bench.zones, length).await,
        Some("attack") => return attack::measure(&binary, servers, &world, bench.people, length).await,
        Some("guesses") => {
            return attack::measure_codes(&binary, servers, &world, bench.guesses, bench.guesses / 10).await;
        }
        _ => {}
    }
    let mut raw = None;
    if bench.wants("location") {
        eprintln!("raw bus: publish and consume by two consumers, {} s …", bench.seconds);
        raw = Some(raw_bus::publish_and_consume(servers, &world, length).await?);
    }
    let run_id = u64::try_from(world.now().timestamp_micros()).unwrap_or(0);
    let target = Target::start(&binary, servers, &world, run_id).await?;
    let mut rows = Vec::new();
    let (drivers, frames) = if bench.wants("memory") {
        let (connected, measured) = memory::measure(&target, &world, bench.drivers).await?;
        rows.extend(measured);
        connected
    } else {
        come_online(&target, bench.drivers).await?
    };
    let inbox = ride::Inbox::new(frames);
    if bench.wants("match") || bench.wants("accept") {
        let (passengers, frames) = target.connect_passengers(bench.drivers).await?;
        inbox.add(frames);
        let wants = |name: &str, rate: u32| bench.wants(name) && bench.rate.is_none_or(|only| only == rate);
        rows.extend(ride::measure(&target, &world, &drivers, &passengers, inbox, length, wants).await?);
    }
    if let Some(raw) = raw {
        for points in [1, location::BATCH] {
            rows.extend(location::measure(&target, servers, &world, &drivers, points, length, raw).await?);
        }
    }
    Ok(rows)
}

/// Connects drivers who are available.
async fn come_online(target: &Target, count: usize) -> Result<Connected> {
    eprintln!("{count} drivers come online …");
    let connected = connect(target.driver_people(count).await?).await?;
    for (n, driver) in connected.0.iter().enumerate() {
        driver.send(Some("b"), "beacon.update", &json!({"active": true, "location": place(n)})).await?;
    }
    sleep(Duration::from_secs(2)).await;
    Ok(connected)
}
