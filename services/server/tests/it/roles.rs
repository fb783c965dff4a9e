//! A database role for each schema: a service reads and writes the rows of its own schema, and reaches nothing else.

use platform::World;
use server::app::{self, App};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use streams::Service;

use crate::harness::client::Person;
use crate::harness::nats::{Nats, as_user};
use crate::harness::ride::{drive, online, trip};
use crate::harness::running::{Running, shared, start};

const SCHEMAS: [(Service, &str, &str); 4] = [
    (Service::Users, "users", "users"),
    (Service::Match, "matching", "drivers"),
    (Service::Rides, "rides", "rides"),
    (Service::Location, "location", "tracks"),
];

async fn execute(connection: &mut PgConnection, statement: String) -> Result<(), String> {
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await.map(drop).map_err(|e| e.to_string())
}

#[tokio::test]
async fn each_service_runs_with_a_role_for_its_own_schema() {
    let nats = Nats::start().await;
    let mut settings = shared(&nats, &["--track-max-speed-mps", "1000000"]).await;
    let owner_url = settings.database_url.clone().unwrap();
    let (server, database) = owner_url.rsplit_once('/').unwrap();
    let prefix = format!("{database}_");
    let url_of = |role: &str| format!("{}{role}@{}/{database}", "postgres://", server.rsplit_once('@').unwrap().1);
    let mut owner = PgConnection::connect(&owner_url).await.unwrap();
    let missing = app::migrate(&settings, Some(&prefix)).await.unwrap_err();
    assert!(
        format!("{missing:#}").contains("does not exist"),
        "a role must exist before it is granted anything: {missing:#}"
    );
    for (_, schema, _) in SCHEMAS {
        execute(&mut owner, format!("create role {prefix}{schema} login")).await.unwrap();
    }
    for _ in 0..2 {
        app::migrate(&settings, Some(&prefix)).await.unwrap();
    }
    assert!(app::migrate(&settings, Some("x; drop schema users; --")).await.is_err());

    let mut apps = Vec::new();
    for (service, schema, _) in SCHEMAS {
        settings.database_url = Some(url_of(&format!("{prefix}{schema}")));
        settings.pod_id = Some(schema.to_owned());
        apps.extend(start(&settings, &[service]).await);
    }
    let running = Running::of(apps, nats, settings).await;
    let (driver, passenger) = (Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await);
    let (mut d, mut p) = (driver.connect(None).await, passenger.connect(None).await);
    online(&mut d, 40.751).await;
    p.ack("finder.update", trip()).await;
    let found = d.event("match.found").await["data"].clone();
    drive(&mut d, &mut p, &found["match_id"], &World::real()).await;
    p.event("ride.completed").await;

    for (_, schema, table) in SCHEMAS {
        let mut role = PgConnection::connect(&url_of(&format!("{prefix}{schema}"))).await.unwrap();
        execute(&mut role, format!("select * from {schema}.{table}")).await.unwrap();
        for (_, other, table) in SCHEMAS.into_iter().filter(|(_, other, _)| *other != schema) {
            let refused = execute(&mut role, format!("select * from {other}.{table}")).await.unwrap_err();
            assert!(refused.contains("permission denied"), "{schema} reads {other}: {refused}");
        }
        for statement in [
            format!("create table {schema}.mine (id int)"),
            format!("drop table {schema}.{table}"),
            format!("truncate {schema}.{table}"),
            format!("delete from {schema}._sqlx_migrations"),
            "create schema mine".to_owned(),
        ] {
            let refused = execute(&mut role, statement.clone()).await.unwrap_err();
            assert!(
                refused.contains("permission denied") || refused.contains("must be owner"),
                "{statement}: {refused}"
            );
        }
    }
    running.stop().await;
    for (_, schema, _) in SCHEMAS {
        execute(&mut owner, format!("drop owned by {prefix}{schema}")).await.unwrap();
        execute(&mut owner, format!("drop role {prefix}{schema}")).await.unwrap();
    }
}

/// An upgrade whose migrations nobody applied: the role may not, and the error says who can.
#[tokio::test]
async fn a_role_that_may_not_migrate_says_what_to_do() {
    let nats = Nats::start().await;
    let mut settings = shared(&nats, &[]).await;
    let owner_url = settings.database_url.clone().unwrap();
    let (server, database) = owner_url.rsplit_once('/').unwrap();
    let role = format!("{database}_bare");
    let mut owner = PgConnection::connect(&owner_url).await.unwrap();
    execute(&mut owner, format!("create role {role} login")).await.unwrap();
    settings.database_url = Some(format!("postgres://{role}@{}/{database}", server.rsplit_once('@').unwrap().1));
    let error = format!(
        "{:#}",
        App::prepare(&as_user(&settings, "match"), &[Service::Match], World::real()).await.unwrap_err()
    );
    assert!(error.contains("rideshare migrate"), "{error}");
    execute(&mut owner, format!("drop role {role}")).await.unwrap();
}
