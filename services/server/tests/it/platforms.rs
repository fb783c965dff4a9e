//! The platform in every shape in which it is run: embedded; one process on NATS and PostgreSQL; five of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Parser;
use platform::World;
use server::app::App;
use server::settings::{Cli, Settings};
use streams::Service;

use crate::database;

/// A nats-server of its own in a directory of its own; killed and removed when dropped.
pub(crate) struct NatsServer {
    child: Child,
    directory: PathBuf,
    port: u16,
}

impl NatsServer {
    pub(crate) async fn start() -> Self {
        let directory = std::env::temp_dir().join(format!("rideshare-test-{}-{:016x}", std::process::id(), random()));
        std::fs::create_dir_all(&directory).unwrap();
        let (child, port) = spawn(&directory, None).await;
        Self { child, directory, port }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills it as a crash does, and starts it again on the same port with the same files.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        (self.child, self.port) = spawn(&self.directory, Some(self.port)).await;
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
    u64::from_be_bytes(bytes)
}

async fn spawn(directory: &std::path::Path, port: Option<u16>) -> (Child, u16) {
    let program = std::env::var("NATS_SERVER")
        .expect("NATS_SERVER names no nats-server: run scripts/test or scripts/with-servers");
    let ports = directory.join("ports");
    let _ = std::fs::remove_dir_all(&ports);
    std::fs::create_dir_all(&ports).unwrap();
    let child = Command::new(program)
        .args(["-js", "-a", "127.0.0.1", "-p", &port.map_or("-1".to_owned(), |p| p.to_string()), "--ports_file_dir"])
        .arg(&ports)
        .arg("-sd")
        .arg(directory.join("store"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server starts");
    for _ in 0..600 {
        let file = std::fs::read_dir(&ports).unwrap().flatten().next();
        if let Some(url) = file.and_then(|f| std::fs::read_to_string(f.path()).ok()).and_then(|text| {
            let json: serde_json::Value = serde_json::from_str(&text).ok()?;
            Some(json["nats"][0].as_str()?.to_owned())
        }) {
            return (child, url.rsplit_once(':').unwrap().1.parse().unwrap());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nats-server wrote no ports file in 30 s");
}

/// How a platform is run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// One process, memory bus, memory state.
    Embedded,
    /// One process on NATS and PostgreSQL.
    Nats,
}

pub(crate) fn settings(more: &[&str]) -> Settings {
    let args = ["rideshare", "--http-addr", "127.0.0.1:0", "--log", "warn"];
    Cli::try_parse_from(args.into_iter().chain(more.iter().copied())).unwrap().settings
}

/// Settings for processes that share `nats` and a new database.
pub(crate) async fn shared(nats: &NatsServer, more: &[&str]) -> Settings {
    let (nats, database) = (nats.url(), database::fresh().await);
    let secret = "a secret of thirty-two bytes or more";
    let mut args = vec!["--queue-type", "nats", "--nats-url", &nats, "--database-url", &database];
    args.extend(["--jwt-secret", secret, "--otp-delivery", "response", "--database-connections", "6"]);
    args.extend(more);
    settings(&args)
}

/// A running platform.
pub(crate) struct Running {
    pub(crate) apps: Vec<App>,
    pub(crate) nats: Option<NatsServer>,
    pub(crate) settings: Settings,
}

impl Running {
    pub(crate) async fn start(shape: Shape, more: &[&str]) -> Self {
        let (nats, settings) = match shape {
            Shape::Embedded => (None, settings(more)),
            Shape::Nats => {
                let nats = NatsServer::start().await;
                let settings = shared(&nats, more).await;
                (Some(nats), settings)
            }
        };
        let app = App::start(&settings, &Service::ALL, World::real()).await.unwrap();
        Self { apps: vec![app], nats, settings }
    }

    /// Two processes of users, one of each other, all in this test's process but each with its own connections.
    pub(crate) async fn split(more: &[&str]) -> Self {
        let nats = NatsServer::start().await;
        let mut settings = shared(&nats, more).await;
        let mut apps = Vec::new();
        for (n, service) in
            [Service::Users, Service::Match, Service::Rides, Service::Location, Service::Users].into_iter().enumerate()
        {
            settings.pod_id = Some(format!("pod-{n}"));
            apps.push(App::start(&settings, &[service], World::real()).await.unwrap());
        }
        Self { apps, nats: Some(nats), settings }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.apps[0].addr
    }

    pub(crate) async fn stop(self) {
        for app in self.apps {
            assert!(app.stop().await, "everything ends in time");
        }
    }
}
