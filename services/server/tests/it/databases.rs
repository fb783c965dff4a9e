//! A database for each service: DATABASE_URL_USERS, DATABASE_URL_MATCH, DATABASE_URL_RIDES, DATABASE_URL_LOCATION.

use platform::World;
use server::app;
use sqlx::{Connection, PgConnection};
use streams::Service;
use testing::database;

use crate::harness::client::Person;
use crate::harness::nats::Nats;
use crate::harness::ride::{drive, online, trip};
use crate::harness::rideshare;
use crate::harness::running::{Running, start};

const SCHEMAS: [(Service, &str); 4] = [
    (Service::Location, "location"),
    (Service::Rides, "rides"),
    (Service::Match, "matching"),
    (Service::Users, "users"),
];

#[tokio::test]
async fn each_service_lives_in_a_database_of_its_own() {
    let nats = Nats::start().await;
    let mut flags = Vec::new();
    for (service, _) in SCHEMAS {
        flags.push(format!("--database-url-{}", service.name()));
        flags.push(database::fresh().await);
    }
    let mut args = vec!["--database-connections", "6"];
    args.extend(flags.iter().map(String::as_str));
    args.extend(["--jwt-secret", "a secret of thirty-two bytes or more", "--otp-delivery", "response"]);
    args.extend(["--track-max-speed-mps", "1000000"]);
    let mut settings = nats.settings(&args);
    app::migrate(&settings, None).await.unwrap();
    let mut apps = Vec::new();
    for (service, schema) in SCHEMAS {
        settings.pod_id = Some(schema.to_owned());
        apps.extend(start(&settings, &[service]).await);
    }
    let addr = apps[3].addr;
    let running = Running::of(apps, nats, settings.clone()).await;
    let (driver, passenger) = (Person::driver(addr, 1).await, Person::passenger(addr, 2).await);
    let (mut d, mut p) = (driver.connect(None).await, passenger.connect(None).await);
    online(&mut d, 40.751).await;
    p.ack("finder.update", trip()).await;
    let found = d.event("match.found").await["data"].clone();
    drive(&mut d, &mut p, &found["match_id"], &World::real()).await;
    p.event("ride.completed").await;
    drop((d, p));
    running.settled().await;

    for (service, schema) in SCHEMAS {
        let database = settings.database_of(service).unwrap();
        let mut connection = PgConnection::connect(database.url).await.unwrap();
        let query = "select distinct schemaname::text from pg_tables \
                     where schemaname not in ('pg_catalog', 'information_schema')";
        let schemas: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut connection).await.unwrap();
        assert_eq!(schemas, [schema], "{}", database.setting);
    }
    let rides = settings.database_of(Service::Rides).unwrap();
    let verified = running.nats().rideshare(&["audit", "verify", "--database-url-rides", rides.url]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    assert!(String::from_utf8_lossy(&verified.stdout).contains("1 rides in the database"), "it reads that of rides");
    let calls = rideshare(&["sos", "list", "--database-url-rides", rides.url]);
    assert!(calls.status.success(), "{}", String::from_utf8_lossy(&calls.stderr));
    running.stop().await;
}
