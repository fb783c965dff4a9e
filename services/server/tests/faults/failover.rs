//! PostgreSQL fails over: the primary is killed while rides are under way, its synchronous standby is promoted, and the address of the
//! database leads there. Nothing that was acknowledged is lost, and nothing is done twice.

use std::time::Duration;

use simulator::Config;
use sqlx::{Connection, PgConnection};
use testing::nats::Server;
use tokio::time::{Instant, sleep};

use crate::fleet::{Fleet, judge};
use crate::processes::{Addresses, Directory};
use crate::proxy::{Line, Proxy};
use crate::runbook;
use crate::servers::Postgres;

const REPLICATION_WAIT: Duration = Duration::from_secs(30);

/// Waits until the standby has what the primary commits before the primary says so.
async fn synchronous(primary: &Postgres) {
    let mut connection = PgConnection::connect(&Postgres::url(primary.port())).await.unwrap();
    for statement in [
        "alter system set synchronous_standby_names = 'standby'",
        "alter system set synchronous_commit = 'remote_apply'",
        "select pg_reload_conf()",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    let until = Instant::now() + REPLICATION_WAIT;
    let state = "select count(*) from pg_stat_replication where sync_state = 'sync'";
    while sqlx::query_scalar::<_, i64>(state).fetch_one(&mut connection).await.unwrap() == 0 {
        assert!(Instant::now() < until, "no synchronous standby in {REPLICATION_WAIT:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn rides_go_on_after_the_primary_is_killed_and_its_standby_promoted() {
    let (logs, nats) = (Directory::new(), Server::new().unwrap());
    let mut primary = Postgres::new(&logs.0).await;
    let mut standby = primary.base_backup(&logs.0, "standby", &["--write-recovery-conf", "--wal-method=stream"]);
    standby.start().await;
    synchronous(&primary).await;
    let address = Proxy::to(primary.port()).await;
    let mut fleet = Fleet::new(&Addresses::new(&nats.url, &Postgres::url(address.port)), &logs);
    fleet.start().await;
    let servers = Addresses::new(&nats.url, &Postgres::url(standby.port()));
    let bus = servers.bus().await;
    let (day, observations) = fleet.day(6, 8, 11);
    let mut city = Box::pin(simulator::run(Config { outage: Duration::from_secs(60), ..day }));
    let mut events_before = 0;
    let summary = loop {
        tokio::select! {
            biased;
            summary = &mut city => break summary.unwrap(),
            () = sleep(Duration::from_millis(50)) => {}
        }
        let events = bus.stream_info("RIDE_STREAM").await.unwrap().messages;
        if events_before == 0 && events >= 8 {
            events_before = events;
            primary.kill();
            address.set(Line::Cut);
            standby.runs(&runbook::block("Failover of PostgreSQL", 0, &[("STANDBY", "127.0.0.1")]));
            address.move_to(standby.port());
            address.set(Line::Open);
        }
    };
    assert!(events_before > 0, "the city was over before the primary was killed");
    assert!(summary.completed >= 8 && summary.passed(), "{summary}");
    judge(&servers, &observations).await;
    fleet.stop().await;
}
