//! PostgreSQL by way of PgBouncer in transaction mode: `pooler=transaction` in the address. More connections of the platform share fewer of the
//! server, and each transaction may be on another one.

use std::time::Duration;

use simulator::{Config, Faults};
use sqlx::{Connection, PgConnection};
use testing::database;
use testing::nats::Server;
use tokio::time::{Instant, sleep};

use crate::fleet::{Fleet, judge};
use crate::processes::{Addresses, Directory};
use crate::servers::Bouncer;

/// Fewer than the processes have: each has 6 and 2 of its relay.
const POOL_SIZE: u32 = 5;
const CONNECTIONS_WAIT: Duration = Duration::from_secs(5);

/// Whether the pooler has connections for the processes, and no more than it may, soon: one that it has closed is there for a moment longer.
async fn few_connections(connection: &mut PgConnection) -> bool {
    let backends = "select count(*) from pg_stat_activity where datname = current_database() and backend_type = 'client backend' \
                    and application_name like 'rideshare %'";
    let until = Instant::now() + CONNECTIONS_WAIT;
    loop {
        let backends: i64 = sqlx::query_scalar(backends).fetch_one(&mut *connection).await.unwrap();
        if (1..=POOL_SIZE.into()).contains(&backends) {
            return true;
        }
        eprintln!("{backends} connections of the server");
        if Instant::now() > until {
            return false;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_city_runs_behind_a_pooler_of_transactions() {
    // scripts/setup says so. The program is in no registry that all machines reach.
    if std::env::var_os("PGBOUNCER").is_none_or(|program| program.is_empty()) {
        eprintln!("no PgBouncer: nothing is tested");
        return;
    }
    let (logs, nats, database) = (Directory::new(), Server::new().unwrap(), database::fresh().await);
    let (server, name) = database.rsplit_once('/').unwrap();
    let bouncer = Bouncer::new(&logs.0, server.rsplit_once(':').unwrap().1.parse().unwrap(), POOL_SIZE).await;
    let pooled = format!("postgres://postgres@127.0.0.1:{}/{name}?pooler=transaction", bouncer.port);
    let by_pooler = Addresses::new(&nats.url, &pooled);
    let servers = Addresses::new(&nats.url, &database);
    let (migrated, said) = by_pooler.rideshare(&["migrate"]).await;
    assert!(!migrated && said.contains("with the address of PostgreSQL itself"), "{said}");
    servers.succeeds(&["migrate"]).await;

    let mut fleet = Fleet::new(&by_pooler, &logs);
    fleet.start().await;
    let (day, observations) = fleet.day(6, 6, 13);
    let faults = Faults { reinstall: 0.01, driver_cancel: 0.1, cancel_ride: 0.1, ..Faults::none() };
    let summary = simulator::run(Config { faults, ..day }).await.unwrap();
    assert!(summary.completed >= 4 && summary.passed(), "{summary}");
    judge(&servers, &observations).await;
    let mut connection = PgConnection::connect(&database).await.unwrap();
    assert!(few_connections(&mut connection).await);
    by_pooler.succeeds(&["audit", "verify"]).await;
    fleet.stop().await;
    for process in &fleet.processes {
        let text = process.text();
        assert!(!text.contains("prepared statement"), "{text}");
    }
}
