//! The platform under measurement: all services in one child process, and the clients connected to it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use platform::World;
use serde_json::{Value, json};
use simulator::load::{self, Person, Receiver, Sender};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// The servers that the platform and the raw bus use.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Servers {
    /// NATS servers, with commas.
    #[arg(long, env = "NATS_URL", value_delimiter = ',', required = true)]
    pub(crate) nats_url: Vec<String>,
    /// PostgreSQL.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: String,
}

/// The first phone number of each kind of client; so many of one kind fit before the next.
const IDLE: usize = 0;
const DRIVERS: usize = 10_000;
const PASSENGERS: usize = 100_000;

/// The wait for the metrics.
const METRICS_WAIT: Duration = Duration::from_secs(10);

/// Who receives frames, and where they come from.
pub(crate) type Frames = Vec<(String, Receiver)>;
/// Connected clients, and what they receive.
pub(crate) type Connected = (Vec<Client>, Frames);

/// A running platform; killed on drop.
pub(crate) struct Target {
    child: Child,
    url: String,
    run_id: u64,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connected client, as its sending half.
pub(crate) struct Client {
    pub(crate) id: String,
    sender: Arc<Mutex<Sender>>,
}

impl Client {
    /// Sends a command; with an `id` the platform acknowledges it.
    pub(crate) async fn send(&self, id: Option<&str>, kind: &str, data: &Value) -> Result<()> {
        self.sender.lock().await.send(id, kind, data).await
    }

    /// The sending half, for a task of its own.
    pub(crate) fn sender(&self) -> Arc<Mutex<Sender>> {
        self.sender.clone()
    }
}

impl Target {
    /// Starts `binary` and waits until it is ready. `run_id` gives this run phone numbers of its own.
    pub(crate) async fn start(binary: &Path, servers: &Servers, world: &World, run_id: u64) -> Result<Self> {
        let secret = hex::encode(world.bytes::<32>());
        Self::start_with(binary, servers, &secret, &[], run_id).await
    }

    /// The same as one of several processes, which share `secret`, with more arguments.
    pub(crate) async fn start_with(
        binary: &Path,
        servers: &Servers,
        secret: &str,
        more: &[String],
        run_id: u64,
    ) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(binary)
            .args(["run", "--http-addr", &format!("127.0.0.1:{port}"), "--otp-delivery", "response", "--log", "error"])
            .args(["--socket-frames-per-s", "1000000", "--match-radius-m", "20000", "--queue-type", "nats"])
            .args(["--nats-url", &servers.nats_url.join(","), "--database-url", &servers.database_url])
            .args(["--jwt-secret", secret, "--limits", &platform::limits::Limits::raised()])
            .args(more)
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let target = Self { child, url: format!("http://127.0.0.1:{port}"), run_id };
        for _ in 0..300 {
            if matches!(load::get(&target.url, "/health/ready").await, Ok((200, _))) {
                return Ok(target);
            }
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("the platform was not ready in 30 s")
    }

    /// The id of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its resident memory.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        memory_of(self.child.id(), "VmRSS:").context("no VmRSS in /proc")
    }

    /// Statistics of its consumers, as `/stats` has them.
    pub(crate) async fn consumers(&self) -> Result<Vec<Value>> {
        let (_, mut stats) = load::get(&self.url, "/stats").await?;
        match stats["consumers"].take() {
            Value::Array(consumers) => Ok(consumers),
            other => anyhow::bail!("/stats has no consumers: {other}"),
        }
    }

    /// Its metrics, in Prometheus' text format.
    pub(crate) async fn metrics(&self) -> Result<String> {
        let host = self.url.rsplit('/').next().context("no address")?;
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        timeout(METRICS_WAIT, stream.read_to_string(&mut text)).await.context("no answer of /metrics")??;
        Ok(text)
    }

    /// The CPU time that it has used, seconds: on a machine that does other work as well it says more than a rate.
    pub(crate) async fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.metrics().await?).context("/metrics has no process_cpu_seconds_total")
    }

    /// Signs in people who only hold sockets open.
    pub(crate) async fn idle_people(&self, count: usize) -> Result<Vec<Person>> {
        load::people(&self.url, self.run_id, IDLE, count, None).await
    }

    /// Registers drivers.
    pub(crate) async fn driver_people(&self, count: usize) -> Result<Vec<Person>> {
        load::people(&self.url, self.run_id, DRIVERS, count, Some("B")).await
    }

    /// Signs in and connects passengers.
    pub(crate) async fn connect_passengers(&self, count: usize) -> Result<Connected> {
        connect(load::people(&self.url, self.run_id, PASSENGERS, count, None).await?).await
    }
}

/// Connects everybody.
pub(crate) async fn connect(people: Vec<Person>) -> Result<Connected> {
    let (mut clients, mut frames) = (Vec::new(), Vec::new());
    for person in people {
        let (sender, receiver) = person.connect().await?;
        frames.push((person.id.clone(), receiver));
        clients.push(Client { id: person.id, sender: Arc::new(Mutex::new(sender)) });
    }
    Ok((clients, frames))
}

/// The CPU time of the process in its metrics, seconds.
pub(crate) fn cpu_seconds(metrics: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total ")?.parse().ok())
}

/// A line of `/proc/<process>/status` in bytes; `VmRSS:` is the resident memory, `VmHWM:` the most that it ever was.
pub(crate) fn memory_of(process: u32, line: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = status.lines().find_map(|l| l.strip_prefix(line))?;
    value.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1_024)
}

/// The `n`th corner of a grid of 40 by 25 streets in New York.
pub(crate) fn place(n: usize) -> Value {
    json!({"lat": 40.70 + 0.002 * (n % 40) as f64, "lng": -74.00 + 0.002 * (n / 40 % 25) as f64})
}
