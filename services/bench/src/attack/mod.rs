//! Attackers beside honest people: whether those are slowed, refused or locked out, and what the attackers got.
//!
//! Every attacker has an address of its own (127.0.0.2 and up) and a bounded rate, so that what is measured is the platform and
//! not who gets the machine's processors. Everything happens on loopback and ends by itself.

mod attackers;
mod codes;
mod connection;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use platform::{CancellationToken, World};
use simulator::{Config, Distribution, Faults, Summary, load};
use tokio::time::sleep;

use crate::table::{Row, row};
use crate::target::Servers;

pub(crate) use codes::measure as measure_codes;

/// From the attackers' start until the honest people come.
const HEAD_START: Duration = Duration::from_secs(2);
/// How much faster than life the honest people move.
const SPEED: f64 = 60.0;
/// A p99 below this is not compared: on a shared machine it is the scheduler's.
const COMPARED_FROM_MS: f64 = 20.0;

/// A process with some services; killed on drop.
struct Pod {
    child: Child,
    url: String,
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two processes of users and one of the other services, with the limits as they come.
pub(crate) struct Pods {
    users: [Pod; 2],
    others: Pod,
    nats: String,
}

impl Pods {
    pub(crate) async fn start(binary: &Path, servers: &Servers, world: &World) -> Result<Self> {
        let secret = hex::encode(world.bytes::<32>());
        let nats = servers.nats_url.first().context("no NATS server")?.clone();
        // One after the other: the first one migrates.
        let others = start(binary, servers, &secret, "match,rides,location", "others").await?;
        let first = start(binary, servers, &secret, "users", "users-1").await?;
        let second = start(binary, servers, &secret, "users", "users-2").await?;
        Ok(Self { users: [first, second], others, nats })
    }

    fn users_urls(&self) -> Vec<String> {
        self.users.iter().map(|pod| pod.url.clone()).collect()
    }
}

async fn start(binary: &Path, servers: &Servers, secret: &str, services: &str, pod: &str) -> Result<Pod> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let max_speed = (70.0 * SPEED).to_string();
    let child = Command::new(binary)
        .args(["run", services, "--pod-id", pod, "--http-addr", &format!("127.0.0.1:{port}")])
        .args(["--otp-delivery", "response", "--log", "error", "--queue-type", "nats", "--jwt-secret", secret])
        .args(["--nats-url", &servers.nats_url.join(","), "--database-url", &servers.database_url])
        .args(["--track-max-speed-mps", &max_speed])
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    let pod = Pod { child, url: format!("http://127.0.0.1:{port}") };
    for _ in 0..300 {
        if matches!(load::get(&pod.url, "/health/ready").await, Ok((200, _))) {
            return Ok(pod);
        }
        sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{services} was not ready in 30 s")
}

/// A city without faults of its own for `length`.
async fn city(pods: &Pods, people: usize, length: Duration, seed: u64) -> Result<Summary> {
    simulator::run(Config {
        urls: pods.users_urls(),
        rides_url: Some(pods.others.url.clone()),
        drivers: people,
        passengers: people,
        rides: usize::MAX,
        time_limit: length + Duration::from_secs(20),
        wind_down: Duration::from_secs(20),
        seed,
        speed: SPEED,
        faults: Faults::none(),
        ..Config::default()
    })
    .await
}

/// The honest people's p99 before and during ten attacks, and what each attacker got.
///
/// # Errors
/// If an honest person is refused, locked out or served wrongly, or if an attacker got what nobody may have.
pub(crate) async fn measure(
    binary: &Path,
    servers: &Servers,
    world: &World,
    people: usize,
    length: Duration,
) -> Result<Vec<Row>> {
    let pods = Pods::start(binary, servers, world).await?;
    eprintln!("{people} drivers and {people} passengers on two pods of users, {} s …", length.as_secs());
    let calm = city(&pods, people, length, 1).await?;
    eprintln!("the same with ten attackers …");
    let stop = CancellationToken::new();
    let attack = attackers::start(&pods.users_urls(), &pods.others.url, &pods.nats, world, &stop);
    sleep(HEAD_START).await;
    let attacked = city(&pods, people, length, 2).await;
    stop.cancel();
    let results = attack.results().await?;
    let attacked = attacked?;

    let mut rows = Vec::new();
    let mut worst = 0.0_f64;
    for (what, before) in &calm.latencies_ms {
        let Some(during) = attacked.latencies_ms.get(what) else { continue };
        let ratio = during.p99.max(COMPARED_FROM_MS) / before.p99.max(COMPARED_FROM_MS);
        worst = worst.max(ratio);
        rows.push(row(format!("honest: {what}"), reached(before, during), "p99 at most twice", format!("{ratio:.2}")));
    }
    for result in &results {
        rows.push(row(format!("attacker: {}", result.name), result.to_string(), "–", "–"));
    }
    crate::table::print(&rows);
    let refused = |summary: &Summary| summary.refusals.clone();
    ensure!(attacked.violations.is_empty(), "violations: {:?}", attacked.violations);
    ensure!(attacked.completed > 0, "no honest ride was completed");
    ensure!(
        !refused(&attacked).keys().any(|k| k.contains("too_many")),
        "honest people were limited: {:?}",
        refused(&attacked)
    );
    for result in &results {
        if let Some(wrong) = &result.wrong {
            anyhow::bail!("{}: {wrong}", result.name);
        }
    }
    eprintln!(
        "{} rides without and {} with attackers; the worst ratio of p99 is {worst:.2}",
        calm.completed, attacked.completed
    );
    Ok(Vec::new())
}

fn reached(before: &Distribution, during: &Distribution) -> String {
    format!("p99 {:.1} ms calm, {:.1} ms", before.p99, during.p99)
}
