//! Processes of the binary `rideshare`, each with addresses of its own for every server: started, killed, stopped, continued. It
//! owns children and their logs, and knows nothing of faults or rides.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use streams::nats::{NatsBus, NatsSettings};
use streams::{Bus, BusError};
use testing::http;
use testing::shipped::Certificates;
use tokio::time::{Instant, sleep};

/// For a process to start, with PostgreSQL and NATS there.
const READY_WAIT: Duration = Duration::from_secs(60);
/// From SIGTERM until a process has ended.
const STOP_WAIT: Duration = Duration::from_secs(45);

/// A child process, killed on drop.
#[derive(Debug)]
pub(crate) struct ChildProcess(pub(crate) Child);

impl ChildProcess {
    /// Sends a signal by its name: `KILL`, `STOP`, `CONT`, `TERM`, `QUIT`.
    pub(crate) fn signal(&self, name: &str) {
        let _ =
            Command::new("kill").arg(format!("-{name}")).arg(self.0.id().to_string()).stderr(Stdio::null()).status();
    }

    /// The status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Waits until it has ended; None if it does not in `wait`.
    pub(crate) async fn end(&mut self, wait: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + wait;
        while Instant::now() < until {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            sleep(Duration::from_millis(20)).await;
        }
        None
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory of its own, removed at the end unless the test fails.
#[derive(Debug)]
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rideshare-faults-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("logs are kept in {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A port that nobody listens on, below the range from which the kernel takes ports for others.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id().wrapping_mul(61).wrapping_add(step) % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The servers of a process, through its proxies; or those of an operator, around every proxy.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    /// With commas, and with the user if there are any.
    pub(crate) nats: String,
    pub(crate) replicas: usize,
    pub(crate) database: String,
    /// What is shown to NATS and trusted of it, over TLS.
    pub(crate) certificates: Option<Certificates>,
}

impl Addresses {
    /// One nats-server without TLS.
    pub(crate) fn new(nats: &str, database: &str) -> Self {
        Self { nats: nats.to_owned(), replicas: 1, database: database.to_owned(), certificates: None }
    }

    /// The settings by which the program finds them.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("QUEUE_TYPE", "nats".to_owned()),
            ("NATS_URL", self.nats.clone()),
            ("NATS_REPLICAS", self.replicas.to_string()),
            ("DATABASE_URL", self.database.clone()),
        ];
        if let Some(certificates) = &self.certificates {
            for (setting, name) in [("NATS_CA", "ca.pem"), ("NATS_CERT", "server.pem"), ("NATS_KEY", "server-key.pem")]
            {
                environment.push((setting, certificates.file(name)));
            }
        }
        environment
    }

    /// A bus of the test's own.
    pub(crate) async fn bus(&self) -> Bus {
        self.connect().await.unwrap()
    }

    pub(crate) async fn connect(&self) -> Result<Bus, BusError> {
        let settings = NatsSettings {
            urls: self.nats.split(',').map(str::to_owned).collect(),
            login: self.certificates.as_ref().map(Certificates::login).unwrap_or_default(),
            replicas: self.replicas,
            name: "rig".to_owned(),
            ..Default::default()
        };
        Ok(Bus::Nats(NatsBus::connect(&settings).await?))
    }

    /// `rideshare …`, as an operator: whether its status was 0, and its output.
    pub(crate) async fn rideshare(&self, command: &[&str]) -> (bool, String) {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_rideshare"))
            .args(command)
            .args(["--log", "error"])
            .envs(self.environment())
            .kill_on_drop(true)
            .output();
        match tokio::time::timeout(STOP_WAIT, output).await {
            Ok(Ok(output)) => {
                let output_text = [output.stdout, output.stderr].concat();
                (output.status.success(), String::from_utf8_lossy(&output_text).into_owned())
            }
            Ok(Err(error)) => (false, error.to_string()),
            Err(_) => (false, format!("no end in {STOP_WAIT:?}")),
        }
    }

    /// The same; it must succeed.
    pub(crate) async fn succeeds(&self, command: &[&str]) -> String {
        let (succeeded, said) = self.rideshare(command).await;
        assert!(succeeded, "{command:?}: {said}");
        said
    }
}

/// A process that is started again and again, with the same service and addresses.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) service: &'static str,
    pub(crate) name: String,
    /// Where it serves HTTP.
    pub(crate) port: u16,
    pub(crate) addresses: Addresses,
    /// More of its environment, from its next start on.
    pub(crate) environment: BTreeMap<&'static str, String>,
    /// How often it was started.
    pub(crate) lives: u32,
    pub(crate) child: Option<ChildProcess>,
    log: PathBuf,
}

impl Process {
    pub(crate) fn new(service: &'static str, slot: usize, addresses: Addresses, logs: &Path) -> Self {
        let name = format!("{service}-{slot}");
        let log = logs.join(format!("{name}.log"));
        Self { service, name, port: free_port(), addresses, environment: BTreeMap::new(), lives: 0, child: None, log }
    }

    /// The id of this life of the process.
    pub(crate) fn pod(&self) -> String {
        format!("{}-{}", self.name, self.lives)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Starts it with a pod id of its own; `kill_at` arms a kill point.
    pub(crate) fn start(&mut self, kill_at: Option<&str>) {
        self.lives += 1;
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_rideshare"));
        command.args(["run", self.service]);
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|n| n.starts_with("FARE_") || n.starts_with("MATCH_") || n.starts_with("NATS_"))
            {
                command.env_remove(name);
            }
        }
        command
            .env_remove("RIDESHARE_KILL_AT")
            .envs(self.addresses.environment())
            .env("NATS_INBOX_PREFIX", format!("_INBOX_{}", self.service))
            .env("DATABASE_CONNECTIONS", "6")
            .env("HTTP_ADDR", format!("127.0.0.1:{}", self.port))
            .env("POD_ID", self.pod())
            .env("JWT_SECRET", "a secret of thirty-two bytes or more")
            .env("OTP_DELIVERY", "response")
            .env("LIMITS", platform::limits::Limits::raised())
            .env("MATCH_OFFER_TTL_S", "4")
            .env("MATCH_RADIUS_M", "20000")
            .env("MATCH_ZONES", std::env::var("FAULTS_ZONES").unwrap_or_else(|_| "1".to_owned()))
            .env("MATCH_ZONE_KM", "1")
            .env("TRACK_MAX_SPEED_MPS", "100000")
            .env("RUST_LOG", std::env::var("FAULTS_LOG").unwrap_or_else(|_| "info".to_owned()))
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if let Some(point) = kill_at {
            command.env("RIDESHARE_KILL_AT", point);
        }
        self.child = Some(ChildProcess(command.spawn().unwrap()));
    }

    pub(crate) fn kill(&mut self) {
        self.child = None;
    }

    /// Ends it by SIGTERM; false if it had to be killed.
    pub(crate) async fn stop(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return true };
        child.signal("TERM");
        child.end(STOP_WAIT).await.is_some()
    }

    pub(crate) fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            child.signal(name);
        }
    }

    /// The signal or status with which it has ended by itself, once.
    pub(crate) fn died(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.ended()?;
        self.child = None;
        Some(match status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => format!("{status}"),
        })
    }

    /// Whether `/health/ready` says so.
    ///
    /// # Errors
    /// What it says.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        let addr = ([127, 0, 0, 1], self.port).into();
        let request = http::request(addr, "GET", "/health/ready", None, None);
        match tokio::time::timeout(Duration::from_secs(3), request).await {
            Ok(Ok((200, _))) => Ok(()),
            Ok(Ok((_, body))) => Err(body.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in 3 s".to_owned()),
        }
    }

    /// Waits until it is ready.
    pub(crate) async fn wait_ready(&self) {
        let until = Instant::now() + READY_WAIT;
        loop {
            match self.ready().await {
                Ok(()) => return,
                Err(why) if Instant::now() >= until => {
                    panic!("{} was not ready in {READY_WAIT:?}: {why}\n{}", self.name, self.tail(40));
                }
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The last lines of its log.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let text = self.text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Its log, since its first start.
    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A new file for a server's log.
pub(crate) fn log(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}
