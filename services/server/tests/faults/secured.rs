//! A city on the nats-server that is shipped, with its permissions and over TLS with client certificates: each service is a process and a
//! NATS user of its own, and the server refuses nothing that they do.

use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use server::commands::nats_permissions;
use simulator::{Config, Faults};
use streams::Bus;
use streams::nats::{Login, NatsBus, NatsSettings};
use streams::topology::Topology;
use testing::database;
use testing::nats::Server;

use crate::checks;
use crate::kill_points::at_rest;
use crate::processes::{Addresses, Directory, Process};
use crate::records::Records;

const USERS: [&str; 7] = ["admin", "users", "match", "rides", "location", "operator", "observer"];

fn with_login(url: &str, user: &str) -> String {
    let (_, host) = url.split_once("://").unwrap();
    format!("tls://{user}:password-of-{user}@{host}")
}

/// Files that `docker/nats-certs` made: the authority's certificate, one that server and clients show, and its key.
struct Certificates(PathBuf);

impl Certificates {
    fn new(directory: PathBuf) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docker/nats-certs");
        let output = Command::new(script).arg(&directory).output().unwrap();
        assert!(output.status.success(), "docker/nats-certs: {}", String::from_utf8_lossy(&output.stderr));
        Self(directory)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// What makes the server accept nobody without a certificate of the authority.
    fn of_server(&self) -> String {
        let [certificate, key, authority] = ["server.pem", "server-key.pem", "ca.pem"].map(|name| self.file(name));
        format!(
            "tls {{ cert_file: \"{certificate}\", key_file: \"{key}\", ca_file: \"{authority}\", verify: true, timeout: 10 }}\n"
        )
    }

    fn settings(&self) -> [(&'static str, String); 3] {
        [("NATS_CA", "ca.pem"), ("NATS_CERT", "server.pem"), ("NATS_KEY", "server-key.pem")]
            .map(|(setting, name)| (setting, self.file(name)))
    }

    fn login(&self) -> Login {
        let [ca, cert, key] = self.settings().map(|(_, file)| Some(file.into()));
        Login { ca, cert, key, ..Login::default() }
    }
}

#[tokio::test]
async fn a_city_runs_with_a_nats_user_for_each_service() {
    let mut configuration = nats_permissions::configuration(&Topology::rideshare(), "rideshare");
    for user in USERS {
        let password = format!("\"password-of-{user}\"");
        configuration = configuration.replace(&format!("$NATS_{}_PASSWORD", user.to_uppercase()), &password);
    }
    let logs = Directory::new();
    let certificates = Certificates::new(logs.0.join("certs"));
    let nats = Server::configured(&(configuration + &certificates.of_server())).unwrap();
    let admin = NatsSettings {
        urls: vec![with_login(&nats.url, "admin")],
        login: certificates.login(),
        replicas: 1,
        name: "admin".to_owned(),
        ..Default::default()
    };
    let stranger = NatsSettings { login: Login { cert: None, key: None, ..certificates.login() }, ..admin.clone() };
    let connected = tokio::time::timeout(Duration::from_secs(2), NatsBus::connect(&stranger)).await;
    assert!(!matches!(connected, Ok(Ok(_))), "nobody connects without a certificate");
    let admin = Bus::Nats(NatsBus::connect(&admin).await.unwrap());
    admin.apply(&Topology::rideshare().with_sweeper()).await.unwrap();
    let database = database::fresh().await;
    let mut processes: Vec<Process> = ["location", "rides", "match", "users"]
        .into_iter()
        .map(|service| {
            let (nats, database) = (with_login(&nats.url, service), database.clone());
            let mut process = Process::new(service, 0, Addresses { nats, replicas: 1, database }, &logs.0);
            process.environment.extend(certificates.settings());
            process
        })
        .collect();
    for process in &mut processes {
        process.start(None);
        process.wait_ready().await;
    }
    let (to, observations) = mpsc::channel();
    let summary = simulator::run(Config {
        urls: vec![processes[3].url()],
        rides_url: Some(processes[1].url()),
        drivers: 6,
        passengers: 6,
        rides: 8,
        time_limit: Duration::from_secs(240),
        seed: 5,
        speed: 200.0,
        billed_tolerance: None,
        faults: Faults { reinstall: 0.01, driver_cancel: 0.1, cancel_ride: 0.1, ..Faults::default() },
        observer: Some(to),
        ..Config::default()
    });
    let summary = summary.await.unwrap();
    assert!(summary.completed >= 6 && summary.passed(), "{summary}");
    at_rest(&database, &admin).await;
    let observations: Vec<_> = observations.try_iter().collect();
    let wrong = checks::all(&Records::read(&database, &admin).await, &observations);
    assert!(wrong.is_empty(), "{wrong:#?}");
    for process in &mut processes {
        assert!(process.stop().await, "{} ends on SIGTERM", process.name);
    }
    let log = std::fs::read_to_string(nats.directory.join("nats.log")).unwrap();
    let refused: Vec<&str> = log.lines().filter(|line| line.contains("iolation")).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}
