//! Matches of one process and of eight, each held to a part of a core; the servers and the load are not held. So the processes are what
//! there is too little of, on a machine with few cores too, and the ratio says how much more eight do than one.
//!
//! A process is held by a cgroup of its own (version 1, `cpu.cfs_quota_us`), which takes root. What it used of its part is printed: it is
//! all of it, or the processes were not what limited the throughput.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use platform::World;
use simulator::Transport;
use simulator::busy::{BusyPeople, Population, Workload};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::table::{Row, row};
use crate::target::{Servers, Target};

/// Processes that are compared.
const COUNTS: [u32; 2] = [1, 8];
/// So much of the throughput of one, times eight.
const MARK: &str = "7.2 times one";
/// People for each process: so many that it always has something to do.
const PASSENGERS: usize = 48;
const DRIVERS: usize = 96;
/// The load before the measurement.
const WARM_UP: Duration = Duration::from_secs(10);
const CGROUPS: &str = "/sys/fs/cgroup/cpu";
/// The scheduler's period: short, so that a process that has used its part waits for milliseconds.
const PERIOD_US: u64 = 20_000;
const NS_PER_S: f64 = 1e9;

/// A cgroup for one process.
struct Held {
    target: Option<Target>,
    group: PathBuf,
}

impl Held {
    fn new(target: Target) -> Result<Self> {
        let group = Path::new(CGROUPS).join(format!("rideshare-scale-{}", target.process()));
        fs::create_dir(&group)
            .with_context(|| format!("{}: holding a process takes root and cgroups", group.display()))?;
        let held = Self { target: Some(target), group };
        let process = held.target.as_ref().map_or(0, Target::process);
        held.write("cgroup.procs", u64::from(process))?;
        Ok(held)
    }

    fn write(&self, file: &str, value: u64) -> Result<()> {
        let path = self.group.join(file);
        fs::write(&path, value.to_string()).with_context(|| path.display().to_string())
    }

    /// From now on it uses `part` of a core at most.
    fn hold(&self, part: f64) -> Result<()> {
        self.write("cpu.cfs_period_us", PERIOD_US)?;
        self.write("cpu.cfs_quota_us", (PERIOD_US as f64 * part) as u64)
    }

    /// The time that it has run, seconds.
    fn used_s(&self) -> Result<f64> {
        let process = self.target.as_ref().context("it has ended")?.process();
        let mut ns = 0;
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            ns += text.split(' ').next().context("no schedstat")?.parse::<u64>()?;
        }
        Ok(ns as f64 / NS_PER_S)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The process first: a cgroup with a process stays.
        self.target.take();
        for _ in 0..50 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} could not be removed", self.group.display());
    }
}

/// What came of a number of processes.
struct Measured {
    per_s: f64,
    /// The part of what each might use that it used, on average.
    used: f64,
}

/// The rows for each number of processes, and for their ratio.
pub(crate) async fn measure(
    binary: &Path,
    servers: &Servers,
    world: &World,
    part: f64,
    zones: u32,
    length: Duration,
) -> Result<Vec<Row>> {
    ensure!(part > 0.0 && part <= 1.0, "--part {part}: a part of a core is more than 0 and at most 1");
    let mut rows = Vec::new();
    let mut rates = Vec::new();
    for count in COUNTS {
        let Measured { per_s, used } = of_processes(binary, servers, world, count, part, zones, length).await?;
        let name = format!("matches of {count} held to {part} of a core each");
        rows.push(row(name, format!("{per_s:.1}/s, {:.0} % of it used", used * 100.0), "-", "-"));
        rates.push(per_s);
    }
    let ratio = rates[1] / rates[0];
    rows.push(row("  the ratio", format!("{ratio:.2}"), MARK, "-"));
    Ok(rows)
}

async fn of_processes(
    binary: &Path,
    servers: &Servers,
    world: &World,
    count: u32,
    part: f64,
    zones: u32,
    length: Duration,
) -> Result<Measured> {
    eprintln!("{count} processes, {} s …", length.as_secs());
    let run_id = u64::try_from(world.now().timestamp_micros()).unwrap_or(0);
    let secret = hex::encode(world.bytes::<32>());
    let more = if zones > 1 { vec!["--match-zones".to_owned(), zones.to_string()] } else { Vec::new() };
    let mut processes = Vec::new();
    for _ in 0..count {
        processes.push(Held::new(Target::start_with(binary, servers, &secret, &more, run_id).await?)?);
    }
    let urls = processes.iter().filter_map(|held| held.target.as_ref()).map(|target| target.url().to_owned()).collect();
    let population = Population { transport: Transport::Tcp, urls, run_id, passengers: PASSENGERS, drivers: DRIVERS };
    let people = BusyPeople::sign_in(&population, Arc::new(|_| {})).await?;
    processes.iter().try_for_each(|held| held.hold(part))?;
    let (mut tasks, world) = (JoinSet::new(), world.clone());
    let counts = people.start(Workload::Matches, Arc::new(move || world.now()), &mut tasks);
    sleep(WARM_UP).await;
    let used = || processes.iter().map(Held::used_s).sum::<Result<f64>>();
    let (began, before, used_before) = (Instant::now(), counts.matches(), used()?);
    sleep(length).await;
    let (done, seconds) = (counts.matches() - before, began.elapsed().as_secs_f64());
    let used = (used()? - used_before) / seconds / part / f64::from(count);
    if counts.refused() > 0 {
        eprintln!("  {} commands were refused", counts.refused());
    }
    Ok(Measured { per_s: done as f64 / seconds, used })
}
