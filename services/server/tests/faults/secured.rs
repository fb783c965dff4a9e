//! A city on the nats-server that is shipped, with its permissions and over TLS with client certificates: each service is a process and a
//! NATS user of its own, and the server refuses nothing that they do. The end-to-end suite on such a server is `scripts/test-secured`.

use std::time::Duration;

use simulator::{Config, Faults};
use streams::topology::Topology;
use testing::database;
use testing::nats::Server;
use testing::shipped::{self, Certificates};

use crate::fleet::{Fleet, judge};
use crate::processes::{Addresses, Directory};

#[tokio::test]
async fn a_city_runs_with_a_nats_user_for_each_service() {
    let logs = Directory::new();
    let certificates = Certificates::new(&logs.0.join("certs")).unwrap();
    let users = shipped::users(shipped::password).unwrap();
    let nats = Server::configured(&(users + &certificates.of_server())).unwrap();
    let database = database::fresh().await;
    let of = |user: &str| Addresses {
        certificates: Some(certificates.clone()),
        ..Addresses::new(&shipped::with_login(&nats.url, user, &shipped::password(user)), &database)
    };
    let admin = of("admin");
    let stranger = Addresses { certificates: None, ..admin.clone() };
    let connected = tokio::time::timeout(Duration::from_secs(2), stranger.connect()).await;
    assert!(!matches!(connected, Ok(Ok(_))), "nobody connects without a certificate");
    admin.bus().await.apply(&Topology::rideshare().with_sweeper()).await.unwrap();
    let mut fleet = Fleet::of(&logs, of);
    fleet.start().await;
    let (day, observations) = fleet.day(6, 8, 5);
    let faults = Faults { reinstall: 0.01, driver_cancel: 0.1, cancel_ride: 0.1, ..Faults::default() };
    let summary = simulator::run(Config { faults, ..day }).await.unwrap();
    assert!(summary.completed >= 6 && summary.passed(), "{summary}");
    judge(&admin, &observations).await;
    fleet.stop().await;
    assert_eq!(nats.refused(), Vec::<String>::new());
}
