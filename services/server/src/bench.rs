//! `rideshare bench`: this platform measured on this machine, servers included, beside the raw bus in the same run.
//!
//! The platform is a child process of its own on the NATS and PostgreSQL of NATS_URL and DATABASE_URL (`scripts/bench`
//! starts private ones), so that its memory can be told from the load's; the load speaks only the contract.

mod audit;
mod raw;
mod ride;

use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::SecondsFormat;
use platform::World;
use serde_json::json;
use simulator::load::{self, Person, Receiver, Sender};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::settings::{Bench, QueueType, Settings};

/// Idle sockets opened to see what one costs.
const IDLE_SOCKETS: usize = 1_000;
/// Sockets that send positions in the throughput measurement, and points in a batched frame.
const SENDERS: usize = 64;
const BATCH: usize = 20;

/// One line of the table.
struct Row {
    name: String,
    reached: String,
    mark: &'static str,
    raw: String,
}

/// The platform under measurement.
struct Target {
    child: Child,
    url: String,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Target {
    async fn start(settings: &Settings) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let world = World::real();
        let secret = hex::encode(world.bytes::<32>());
        let child = Command::new(std::env::current_exe()?)
            .args(["run", "--http-addr", &format!("127.0.0.1:{port}"), "--otp-delivery", "response", "--log", "error"])
            .args(["--socket-frames-per-s", "1000000", "--match-radius-m", "20000", "--queue-type", "nats"])
            .args(["--nats-url", &settings.nats_url.join(","), "--jwt-secret", &secret])
            .args(["--database-url", settings.database_url.as_deref().unwrap_or_default()])
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the platform")?;
        let target = Self { child, url: format!("http://127.0.0.1:{port}") };
        for _ in 0..300 {
            if matches!(load::get(&target.url, "/health/ready").await, Ok((200, _))) {
                return Ok(target);
            }
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("the platform was not ready in 30 s")
    }

    /// Resident memory, bytes.
    fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS in /proc")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// Positions still to be handled by either consumer.
    async fn waiting(&self) -> Result<u64> {
        let (_, stats) = load::get(&self.url, "/stats").await?;
        let of = |name: &str| -> Result<u64> {
            let found = stats["consumers"].as_array().into_iter().flatten().find(|c| c["name"] == name);
            let found = found.with_context(|| format!("no statistics of {name}"))?;
            Ok(found["pending"].as_u64().unwrap_or(0) + found["ack_pending"].as_u64().unwrap_or(0))
        };
        Ok(of("location_update_location")?.max(of("location_update_match")?))
    }
}

/// Somebody connected, whose frames go where the measurement wants them.
pub(crate) struct Connected {
    pub(crate) id: String,
    pub(crate) sender: Arc<tokio::sync::Mutex<Sender>>,
}

/// Measures and prints the table. Status 1 only if it could not measure: a missed mark is a result.
///
/// # Errors
/// If a server is missing or does not answer.
pub async fn run(settings: &Settings, what: &Bench) -> Result<ExitCode> {
    ensure!(
        settings.queue_type == QueueType::Nats || std::env::var_os("QUEUE_TYPE").is_none(),
        "bench measures the platform on NATS: unset QUEUE_TYPE"
    );
    ensure!(
        settings.database_url.is_some(),
        "bench needs NATS_URL and DATABASE_URL: scripts/bench starts private servers"
    );
    let wanted = |name: &str| what.only.as_deref().is_none_or(|only| name.contains(only));
    let length = Duration::from_secs(what.seconds.max(1));
    let world = World::real();
    let run_id = u64::try_from(world.now().timestamp_micros()).unwrap_or(0);
    let mut rows = Vec::new();
    // Only by its name: it fills the trail, and the platform would be told of rides that it does not know.
    if what.only.as_deref() == Some("audit") {
        print(&audit::measure(settings, &world, what.events).await?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut raw_rate = None;
    if wanted("location") {
        eprintln!("raw bus: publish and consume by two consumers, {} s …", what.seconds);
        raw_rate = Some(raw::publish_and_consume(settings, &world, length).await?);
    }
    let target = Target::start(settings).await?;
    if wanted("memory") {
        rows.push(idle_sockets(&target, run_id).await?);
    }
    eprintln!("{} drivers come online …", what.drivers);
    let before = target.resident()?;
    let drivers = load::people(&target.url, run_id, 10_000, what.drivers, Some("B")).await?;
    let (drivers, inbox) = connect(drivers).await?;
    for (n, driver) in drivers.iter().enumerate() {
        let data = json!({"active": true, "location": place(n)});
        driver.sender.lock().await.send(Some("b"), "beacon.update", &data).await?;
    }
    let inbox = ride::Inbox::new(inbox);
    sleep(Duration::from_secs(2)).await;
    if wanted("memory") {
        let each = target.resident()?.saturating_sub(before) / drivers.len().max(1) as u64;
        rows.push(row("memory for each online driver", format!("{:.1} KiB", each as f64 / 1024.0), "–", "–"));
    }
    if wanted("match") || wanted("accept") {
        let passengers = load::people(&target.url, run_id, 100_000, what.drivers, None).await?;
        let (passengers, frames) = connect(passengers).await?;
        inbox.add(frames);
        rows.extend(ride::measure(&world, &drivers, &passengers, &inbox, length, &wanted).await?);
    }
    if let Some(raw) = raw_rate {
        for batch in [1, BATCH] {
            rows.push(locations(&target, &world, &drivers, batch, length, raw).await?);
        }
    }
    drop(target);
    print(&rows);
    Ok(ExitCode::SUCCESS)
}

fn row(name: impl Into<String>, reached: String, mark: &'static str, raw: impl Into<String>) -> Row {
    Row { name: name.into(), reached, mark, raw: raw.into() }
}

fn print(rows: &[Row]) {
    let head = row("measurement", "reached".to_owned(), "mark", "ratio to the raw bus");
    for row in std::iter::once(&head).chain(rows) {
        println!("{:<62} {:>34}   {:<26} {}", row.name, row.reached, row.mark, row.raw);
    }
}

/// Places on a square of 40 by 25 streets in New York.
pub(crate) fn place(n: usize) -> serde_json::Value {
    json!({"lat": 40.70 + 0.002 * (n % 40) as f64, "lng": -74.00 + 0.002 * (n / 40 % 25) as f64})
}

/// Connects everybody; the frames of all come by one channel.
async fn connect(people: Vec<Person>) -> Result<(Vec<Connected>, Vec<(String, Receiver)>)> {
    let (mut connected, mut receivers) = (Vec::new(), Vec::new());
    for person in people {
        let (sender, receiver) = person.connect().await?;
        receivers.push((person.id.clone(), receiver));
        connected.push(Connected { id: person.id, sender: Arc::new(tokio::sync::Mutex::new(sender)) });
    }
    Ok((connected, receivers))
}

async fn idle_sockets(target: &Target, run_id: u64) -> Result<Row> {
    eprintln!("{IDLE_SOCKETS} idle sockets …");
    let people = load::people(&target.url, run_id, 0, IDLE_SOCKETS / 4, None).await?;
    // Once each, so that code, pools and caches are warm before the first look.
    for person in &people {
        drop(person.connect().await?);
    }
    sleep(Duration::from_secs(2)).await;
    let before = target.resident()?;
    let mut open = Vec::new();
    for person in &people {
        for _ in 0..4 {
            open.push(person.connect().await?);
        }
    }
    sleep(Duration::from_secs(2)).await;
    let each = target.resident()?.saturating_sub(before) / open.len() as u64;
    Ok(row("memory for each idle socket", format!("{:.1} KiB", each as f64 / 1024.0), "–", "–"))
}

/// Positions from WebSockets to both consumers: as many as go through, counted from the first sent to the last handled.
async fn locations(
    target: &Target,
    world: &World,
    drivers: &[Connected],
    batch: usize,
    length: Duration,
    raw: f64,
) -> Result<Row> {
    eprintln!("location.update, {batch} point(s) a frame, {} s …", length.as_secs());
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for (n, driver) in drivers.iter().take(SENDERS).enumerate() {
        let (sender, world, at) = (driver.sender.clone(), world.clone(), place(n));
        senders.spawn(async move {
            let mut sent = 0u64;
            while began.elapsed() < length {
                let points: Vec<_> = (0..batch)
                    .map(|i| {
                        let recorded = world.now() + chrono::Duration::microseconds(i as i64);
                        json!({"location": at, "recorded_at": recorded.to_rfc3339_opts(SecondsFormat::Micros, true)})
                    })
                    .collect();
                let data = if batch == 1 { points[0].clone() } else { json!({"points": points}) };
                // Each 50th wants an answer, so that the load is what the platform takes and not what buffers hold.
                let id = sent.is_multiple_of(50).then_some("p");
                sender.lock().await.send(id, "location.update", &data).await?;
                sent += 1;
            }
            Ok::<_, anyhow::Error>(sent)
        });
    }
    let mut sent = 0;
    while let Some(done) = senders.join_next().await {
        sent += done?? * batch as u64;
    }
    // All that was sent must come out at the other end of both consumers; the time until then counts.
    let mut rest = 0;
    for _ in 0..120 {
        rest = target.waiting().await?;
        if rest == 0 {
            break;
        }
        // Seldom: each look is a request to the bus for every consumer.
        sleep(Duration::from_millis(500)).await;
    }
    let rate = (sent - rest.min(sent)) as f64 / began.elapsed().as_secs_f64();
    if rest > 0 {
        let (_, stats) = load::get(&target.url, "/stats").await?;
        let consumers = stats["consumers"].as_array().into_iter().flatten();
        for consumer in consumers.filter(|c| c["name"].as_str().is_some_and(|n| n.starts_with("location_update"))) {
            eprintln!("  not handled a minute after the last was sent: {consumer}");
        }
    }
    Ok(row(
        format!("location.update to the newest-position index, {batch}/frame"),
        format!("{rate:.0}/s"),
        "20,000/s and 0.3 of raw",
        format!("{:.2} (raw {raw:.0}/s)", rate / raw),
    ))
}

/// Percentiles of milliseconds; (p50, p99).
pub(crate) fn percentiles(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at =
        |part: f64| values.get(((values.len() as f64 * part) as usize).min(values.len().saturating_sub(1))).copied();
    (at(0.50).unwrap_or(f64::NAN), at(0.99).unwrap_or(f64::NAN))
}
