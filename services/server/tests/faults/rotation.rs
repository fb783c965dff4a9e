//! Every secret changes under load: JWT_SECRET and DATA_SECRET, the passwords of NATS and those of PostgreSQL. A city takes rides while
//! processes are started again one after another; nobody is signed out, nothing is lost or done twice.

use std::cell::Cell;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use server::commands::nats_permissions;
use simulator::{Config, Faults, Observation};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use streams::topology::Topology;
use testing::nats::Server;

use crate::checks;
use crate::kill_points::at_rest;
use crate::processes::{Addresses, Directory, Process, audit};
use crate::records::{self, Records};
use crate::servers::Postgres;

const USERS: [&str; 7] = ["admin", "users", "match", "rides", "location", "operator", "observer"];
/// The role of each service is of its schema. Readers of events start before their writers.
const ROLES: [(&str, &str); 4] =
    [("location", "city_location"), ("rides", "city_rides"), ("match", "city_matching"), ("users", "city_users")];
/// Drivers, and as many passengers.
const PEOPLE: usize = 4;
/// Before and after.
const JWT: [&str; 2] = ["the JWT secret of before, 32 bytes", "the new JWT secret, of thirty-two bytes"];
const DATA: [&str; 2] = ["the DATA secret of before, 32 bytes", "the new DATA secret, of thirty-two bytes"];

#[derive(Debug, Clone, Copy)]
enum Password {
    Old,
    New,
}

/// The configuration of NATS when the services of `changed` have their new password.
fn nats_users(changed: &[&str]) -> String {
    let mut configuration = nats_permissions::configuration(&Topology::rideshare(), "rideshare");
    for user in USERS {
        let which = if changed.contains(&user) { Password::New } else { Password::Old };
        let password = nats_password(user, which);
        let placeholder = format!("$NATS_{}_PASSWORD", user.to_uppercase());
        configuration = configuration.replace(&placeholder, &format!("\"{password}\""));
    }
    configuration
}

fn nats_password(user: &str, which: Password) -> String {
    format!("{which:?}-password-of-{user}")
}

fn nats_url(url: &str, user: &str, password: Password) -> String {
    url.replace("://", &format!("://{user}:{}@", nats_password(user, password)))
}

fn database_url(port: u16, role: &str, password: &str) -> String {
    format!("postgres://{role}:{password}@127.0.0.1:{port}/postgres")
}

async fn execute(connection: &mut PgConnection, statement: &str) {
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await.unwrap();
}

/// Starts a process again with what has changed, and waits until it is ready.
async fn restart(process: &mut Process) {
    assert!(process.stop().await, "{} ends on SIGTERM", process.name);
    process.start(None);
    process.wait_ready().await;
}

/// The secrets of a process, from its next start on.
fn set_secrets(process: &mut Process, [jwt, jwt_previous]: [&str; 2], [data, data_previous]: [&str; 2]) {
    process.environment.extend([
        ("JWT_SECRET", jwt.to_owned()),
        ("JWT_SECRET_PREVIOUS", jwt_previous.to_owned()),
        ("DATA_SECRET", data.to_owned()),
        ("DATA_SECRET_PREVIOUS", data_previous.to_owned()),
    ]);
}

/// Changes everything, a process at a time: at first each learns the new secrets, then each signs with them, and has new passwords.
async fn change(processes: &mut [Process], owner: &mut PgConnection, nats: &mut Server, port: u16) {
    for process in &mut *processes {
        set_secrets(process, [JWT[0], JWT[1]], [DATA[0], DATA[1]]);
        restart(process).await;
    }
    for (n, (service, role)) in ROLES.into_iter().enumerate() {
        execute(owner, &format!("alter role {role} password 'new'")).await;
        let changed: Vec<&str> = ROLES[..=n].iter().map(|(service, _)| *service).collect();
        nats.reload(&nats_users(&changed)).unwrap();
        let process = &mut processes[n];
        process.addresses.nats = nats_url(&nats.url, service, Password::New);
        process.addresses.database = database_url(port, role, "new");
        set_secrets(process, [JWT[1], JWT[0]], [DATA[1], DATA[0]]);
        restart(process).await;
    }
}

fn city(processes: &[Process], observer: Sender<Observation>) -> Config {
    Config {
        urls: vec![processes[3].url()],
        rides_url: Some(processes[1].url()),
        drivers: PEOPLE,
        passengers: PEOPLE,
        rides: 4,
        time_limit: Duration::from_secs(240),
        outage: Duration::from_secs(60),
        seed: 7,
        speed: 200.0,
        billed_tolerance: None,
        faults: Faults::none(),
        observer: Some(observer),
        ..Config::default()
    }
}

#[tokio::test]
async fn every_secret_changes_while_rides_go_on() {
    let logs = Directory::new();
    let postgres = Postgres::new(&logs.0).await;
    let port = postgres.port();
    let owner_url = Postgres::url(port);
    let mut owner = PgConnection::connect(&owner_url).await.unwrap();
    for (_, role) in ROLES {
        execute(&mut owner, &format!("create role {role} login password 'old'")).await;
    }
    postgres.admit("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n");
    let mut nats = Server::configured(&nats_users(&[])).unwrap();
    let admin_url = nats_url(&nats.url, "admin", Password::Old);
    let admin = records::bus(std::slice::from_ref(&admin_url), 1).await;
    admin.apply(&Topology::rideshare().with_sweeper()).await.unwrap();
    let migrate = ["migrate", "--role-prefix", "city_"];
    let (migrated, said) = crate::processes::rideshare(&migrate, std::slice::from_ref(&admin_url), 1, &owner_url).await;
    assert!(migrated, "{said}");

    let mut processes: Vec<Process> = Vec::new();
    for (service, role) in ROLES {
        let (nats, database) = (nats_url(&nats.url, service, Password::Old), database_url(port, role, "old"));
        let mut process = Process::new(service, 0, Addresses { nats, replicas: 1, database }, &logs.0);
        set_secrets(&mut process, [JWT[0], ""], [DATA[0], ""]);
        process.start(None);
        process.wait_ready().await;
        processes.push(process);
    }
    let (to, observations) = mpsc::channel();
    let day = city(&processes, to);
    let (changed, days) = (Cell::new(false), Cell::new(0_i64));
    let changes = async {
        change(&mut processes, &mut owner, &mut nats, port).await;
        changed.set(true);
    };
    // While secrets still change, another day begins, with other people.
    let city = async {
        while !changed.get() || days.get() == 0 {
            let summary = simulator::run(day.clone()).await.unwrap();
            assert!(summary.completed >= 4 && summary.passed(), "{summary}");
            days.set(days.get() + 1);
        }
    };
    tokio::join!(city, changes);
    drop(day);
    at_rest(&owner_url, &admin).await;
    let observations: Vec<_> = observations.try_iter().collect();
    let wrong = checks::all(&Records::read(&owner_url, &admin).await, &observations);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let (sound, said) = audit("verify", std::slice::from_ref(&admin_url), 1, &owner_url).await;
    assert!(sound, "{said}");
    // Whoever is signed out signs in again, which is a row more.
    let sign_ins: i64 =
        sqlx::query_scalar("select count(*) from users.user_sign_ins").fetch_one(&mut owner).await.unwrap();
    assert_eq!(sign_ins, days.get() * 2 * PEOPLE as i64, "nobody was signed out");
    for process in &mut processes {
        assert_eq!(process.lives, 3, "{}: at first, with the new secrets known, with all changed", process.name);
        assert!(process.stop().await, "{} ends on SIGTERM", process.name);
    }
    let refused = PgConnection::connect(&database_url(port, "city_users", "old")).await;
    assert!(refused.is_err(), "the old password is of no use");
}
