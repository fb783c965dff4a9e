//! A city on the nats-server that is shipped, with its permissions: each service is a process and a NATS user of its own, and the server
//! refuses nothing that they do.

use std::sync::mpsc;
use std::time::Duration;

use server::commands::nats_permissions;
use simulator::{Config, Faults};
use streams::topology::Topology;
use testing::database;
use testing::nats::Server;

use crate::checks;
use crate::kill_points::at_rest;
use crate::processes::{Addresses, Directory, Process};
use crate::records::{self, Records};

const USERS: [&str; 7] = ["admin", "users", "match", "rides", "location", "operator", "observer"];

fn with_login(url: &str, user: &str) -> String {
    url.replace("://", &format!("://{user}:password-of-{user}@"))
}

#[tokio::test]
async fn a_city_runs_with_a_nats_user_for_each_service() {
    let mut configuration = nats_permissions::configuration(&Topology::rideshare(), "rideshare");
    for user in USERS {
        let password = format!("\"password-of-{user}\"");
        configuration = configuration.replace(&format!("$NATS_{}_PASSWORD", user.to_uppercase()), &password);
    }
    let nats = Server::configured(&configuration).unwrap();
    let admin = records::bus(&[with_login(&nats.url, "admin")], 1).await;
    admin.apply(&Topology::rideshare().with_sweeper()).await.unwrap();
    let (database, logs) = (database::fresh().await, Directory::new());
    let mut processes: Vec<Process> = ["location", "rides", "match", "users"]
        .into_iter()
        .map(|service| {
            let (nats, database) = (with_login(&nats.url, service), database.clone());
            Process::new(service, 0, Addresses { nats, replicas: 1, database }, &logs.0)
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
