//! PostgreSQL is restored to a moment before its end, from a base backup and archived WAL. RIDE_STREAM has the rides of the time between:
//! `audit recover` brings them back into the tables of rides, `streams rewind` to the other services. What was pending at that moment and paid
//! after it is captured again.

use std::time::Duration;

use simulator::Config;
use sqlx::{Connection, PgConnection};
use testing::nats::Server;
use tokio::time::{Instant, sleep};

use crate::fleet::{Fleet, at_rest};
use crate::processes::{Addresses, Directory};
use crate::runbook;
use crate::servers::Postgres;

const WAIT: Duration = Duration::from_secs(60);

/// A city whose people have the phone numbers of this seed.
fn city(fleet: &Fleet, rides: usize, seed: u64) -> Config {
    Config { run_id: Some(seed), ..fleet.day(5, rides, seed).0 }
}

async fn until(what: &str, connection: &mut PgConnection, query: &'static str) {
    let limit = Instant::now() + WAIT;
    while !sqlx::query_scalar::<_, bool>(query).fetch_one(&mut *connection).await.unwrap() {
        assert!(Instant::now() < limit, "not in {WAIT:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The rides of the database: how many, and how many of them have ended.
async fn rides(connection: &mut PgConnection) -> (i64, i64) {
    let query = "select count(*), count(*) filter (where status in ('completed', 'cancelled')) from rides.rides";
    sqlx::query_as(query).fetch_one(connection).await.unwrap()
}

/// From here on a payment is settled only while nobody holds the advisory lock.
async fn let_captures_wait(connection: &mut PgConnection) {
    for statement in [
        "create function rides.wait() returns trigger language plpgsql as \
         $$ begin perform pg_advisory_xact_lock(1); return new; end $$",
        "create trigger wait before update on rides.payments for each row execute function rides.wait()",
    ] {
        sqlx::query(statement).execute(&mut *connection).await.unwrap();
    }
}

/// How many payments are pending although their messages are published.
async fn pending_payments(connection: &mut PgConnection) -> i64 {
    let query = "select count(*) from rides.payments p join rides.outbox o on o.key = p.payment_id \
                 where p.status = 'pending' and o.published_at is not null";
    sqlx::query_scalar(query).fetch_one(connection).await.unwrap()
}

/// A city's day, and a moment in the middle of it, with the rides then: some are over, some are under way, some are yet to come. Of one that is
/// over, the payment is pending, and settled after the moment.
async fn day(connection: &mut PgConnection, city: Config) -> (String, (i64, i64)) {
    let mut day = Box::pin(simulator::run(city));
    let mut moment = None;
    // From the first ride on: a passenger reads the bill until it is paid, and takes no other ride before.
    sqlx::query("select pg_advisory_lock(1)").execute(&mut *connection).await.unwrap();
    let summary = loop {
        tokio::select! {
            biased;
            summary = &mut day => break summary.unwrap(),
            () = sleep(Duration::from_millis(20)) => {}
        }
        let (all, ended) = rides(connection).await;
        if moment.is_some() {
            continue;
        }
        if all > ended && pending_payments(connection).await > 0 {
            let now = sqlx::query_scalar("select now()::text").fetch_one(&mut *connection).await.unwrap();
            moment = Some((now, (all, ended)));
            sqlx::query("select pg_advisory_unlock(1)").execute(&mut *connection).await.unwrap();
        }
    };
    assert!(summary.passed(), "{summary}");
    moment.unwrap()
}

#[tokio::test]
async fn a_restore_to_an_earlier_moment_has_the_rides_of_the_time_since() {
    let (logs, nats) = (Directory::new(), Server::new().unwrap());
    let mut postgres = Postgres::configured(
        &logs.0,
        "archive_mode = on\narchive_command = 'cp %p ../part && mv ../part ../archived-%f'\n",
    )
    .await;
    let archive = logs.0.join("postgres");
    let servers = Addresses::new(&nats.url, &Postgres::url(postgres.port()));
    let mut before = Fleet::new(&servers, &logs);
    before.start().await;
    let mut restored = postgres.base_backup(&logs.0, "restored", &["--wal-method=none"]);

    let mut connection = PgConnection::connect(&servers.database).await.unwrap();
    let_captures_wait(&mut connection).await;
    let bus = servers.bus().await;
    let (moment, (all, ended)) = day(&mut connection, city(&before, 8, 21)).await;
    at_rest(&servers.database, &bus).await;
    let at_the_end = rides(&mut connection).await;
    assert!(at_the_end.0 > all && all > ended, "{at_the_end:?} in the end, {all} and {ended} at {moment}");
    before.stop().await;
    let last: String =
        sqlx::query_scalar("select pg_walfile_name(pg_switch_wal())").fetch_one(&mut connection).await.unwrap();
    let archived = archive.join(format!("archived-{last}"));
    let limit = Instant::now() + WAIT;
    while !archived.exists() {
        assert!(Instant::now() < limit, "{last} was not archived in {WAIT:?}");
        sleep(Duration::from_millis(50)).await;
    }
    drop(connection);
    postgres.crash().await;

    restored.configure("archive_mode = off\n");
    let archive = archive.display().to_string();
    let named = [("/archive/", format!("{archive}/archived-")), ("2026-11-26 22:04:00+00", moment.clone())];
    let named: Vec<_> = named.iter().map(|(from, to)| (*from, to.as_str())).collect();
    restored.runs(&runbook::block("Restore", 0, &named));
    restored.start().await;
    let servers = Addresses::new(&nats.url, &Postgres::url(restored.port()));
    let mut connection = PgConnection::connect(&servers.database).await.unwrap();
    until("the recovery ends", &mut connection, "select not pg_is_in_recovery()").await;
    let (restored_all, restored_ended) = rides(&mut connection).await;
    assert!(restored_all >= all && restored_ended < at_the_end.1, "{restored_all}, {restored_ended}");
    assert!(pending_payments(&mut connection).await > 0, "a payment was pending at {moment}");

    // As in docker/RUNBOOK.md.
    let (sound, said) = servers.rideshare(&["audit", "verify"]).await;
    assert!(!sound && said.contains("it is in the stream and not in the database"), "{said}");
    for command in [&["migrate"][..], &["audit", "recover"], &["streams", "rewind"]] {
        servers.succeeds(command).await;
    }
    assert_eq!(rides(&mut connection).await, at_the_end, "every ride is as it was at the end");
    let said = servers.succeeds(&["audit", "recover"]).await;
    let nothing = said.contains("0 events of 0 rides") && said.contains("\n0 pending payments");
    assert!(nothing, "again, it changes nothing: {said}");
    let mut after = Fleet::new(&servers, &logs);
    after.start().await;
    at_rest(&servers.database, &bus).await;
    // The relay may have published again what the outbox of that moment had not published.
    for command in ["repair", "verify"] {
        servers.succeeds(&["audit", command]).await;
    }
    assert_eq!(rides(&mut connection).await, at_the_end);
    let pending = "select count(*) from rides.payments where status = 'pending'";
    let pending: i64 = sqlx::query_scalar(pending).fetch_one(&mut connection).await.unwrap();
    assert_eq!(pending, 0, "each payment is settled");
    // The people of that day are free again: nobody is held by a ride that is over, and a second day goes well.
    for (what, query) in [
        ("rides in users", "select count(*) from users.live_rides where status in ('pickup', 'started', 'arrived')"),
        ("rides in match", "select count(*) from matching.rides where ended_at is null"),
    ] {
        let held: i64 = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
        assert_eq!(held, 0, "{what} that are over");
    }
    let summary = simulator::run(city(&after, 3, 22)).await.unwrap();
    assert!(summary.completed >= 3 && summary.passed(), "{summary}");
    at_rest(&servers.database, &bus).await;
    servers.succeeds(&["audit", "verify"]).await;
    after.stop().await;
}
