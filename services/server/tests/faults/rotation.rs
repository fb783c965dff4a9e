//! Every secret changes under load: JWT_SECRET and DATA_SECRET, the passwords of NATS and of PostgreSQL, the certificates of NATS and of its
//! clients with the authority that signs them, the secret of SOS_WEBHOOK, and the keys of push. A city takes rides, people call for help
//! and phones get pushes while processes are started again one after another; nobody is signed out, nothing is lost or done twice, and
//! nothing comes with a signature that its receiver does not know.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use simulator::Config;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testing::nats::Server;
use testing::shipped::{self, Certificates};

use crate::fleet::{Fleet, SERVICES, judge};
use crate::processes::{Addresses, Directory, Process};
use crate::receivers::{PushKeys, Receivers, SOS_SECRET};
use crate::runbook;
use crate::script::{self, Platform};
use crate::servers::Postgres;

/// Drivers, and as many passengers.
const PEOPLE: usize = 4;
/// Before and after.
const JWT: [&str; 2] = ["the JWT secret of before, 32 bytes", "the new JWT secret, of thirty-two bytes"];
const DATA: [&str; 2] = ["the DATA secret of before, 32 bytes", "the new DATA secret, of thirty-two bytes"];
const SOS: [&str; 2] = [SOS_SECRET, "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="];

#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    Before,
    After,
}

fn password(user: &str, when: When) -> String {
    format!("{when:?}-password-of-{user}")
}

/// The database role of a service, which is of its schema.
fn role(service: &str) -> String {
    format!("city_{}", if service == "match" { "matching" } else { service })
}

/// A machine with files of certificates, in `certs`: there an operator runs the commands of docker/RUNBOOK.md.
struct Holder {
    directory: PathBuf,
    certificates: Certificates,
}

impl Holder {
    /// With files of before, and the way to those of after.
    fn new(name: &str, root: &Path, before: &Certificates) -> Self {
        let directory = root.join(name);
        let certificates = before.copy(&directory.join("certs")).unwrap();
        symlink(root.join("new-certs"), directory.join("new-certs")).unwrap();
        symlink(runbook::repository().join("docker"), directory.join("docker")).unwrap();
        Self { directory, certificates }
    }

    /// Runs a block of the section "Certificates of NATS".
    fn run(&self, block: usize) {
        runbook::run(&runbook::block("Certificates of NATS", block, &[]), &self.directory, &[]);
    }
}

/// The blocks of that section.
const RENEW: usize = 0;
const NEW_AUTHORITY: usize = 1;
const TRUST_BOTH: usize = 2;
const SHOW_NEW: usize = 3;
const TRUST_NEW: usize = 4;

/// The servers, and what each of them and each service knows.
struct Secrets {
    nats: Server,
    postgres_port: u16,
    /// What the nats-server shows and trusts, and what each service does.
    of_nats: Holder,
    of_services: BTreeMap<&'static str, Holder>,
    /// Services with their new passwords.
    changed: Vec<&'static str>,
    push: [PushKeys; 2],
}

impl Secrets {
    fn users(&self) -> String {
        let when = |user: &str| if self.changed.contains(&user) { When::After } else { When::Before };
        shipped::users(|user| password(user, when(user))).unwrap()
    }

    /// The server reads its configuration and its files again, as on SIGHUP.
    fn reload_nats(&mut self) {
        self.nats.reload(&(self.users() + &self.of_nats.certificates.of_server())).unwrap();
    }

    fn addresses(&self, service: &'static str) -> Addresses {
        let is_changed = self.changed.contains(&service);
        let of_nats = password(service, if is_changed { When::After } else { When::Before });
        let of_database = if is_changed { "new" } else { "old" };
        Addresses {
            certificates: Some(self.of_services[service].certificates.clone()),
            ..Addresses::new(
                &shipped::with_login(&self.nats.url, service, &of_nats),
                &database_url(self.postgres_port, &role(service), of_database),
            )
        }
    }

    /// Whoever connects as the administrator, with these certificates.
    fn admin(&self, certificates: &Certificates) -> Addresses {
        Addresses {
            certificates: Some(certificates.clone()),
            ..Addresses::new(
                &shipped::with_login(&self.nats.url, "admin", &password("admin", When::Before)),
                &Postgres::url(self.postgres_port),
            )
        }
    }
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
fn set_secrets(process: &mut Process, [jwt, jwt_previous]: [&str; 2], [data, data_previous]: [&str; 2], sos: &str) {
    process.environment.extend([
        ("JWT_SECRET", jwt.to_owned()),
        ("JWT_SECRET_PREVIOUS", jwt_previous.to_owned()),
        ("DATA_SECRET", data.to_owned()),
        ("DATA_SECRET_PREVIOUS", data_previous.to_owned()),
        ("SOS_WEBHOOK_SECRET", sos.to_owned()),
    ]);
}

/// Changes everything, a process at a time, as docker/RUNBOOK.md says.
async fn change(fleet: &mut Fleet, postgres: &Postgres, secrets: &mut Secrets, receivers: &Receivers) {
    // NATS has another certificate of the same authority; then both authorities are trusted, and it shows one of the new one. No process is
    // started again for it.
    secrets.of_nats.run(RENEW);
    secrets.reload_nats();
    secrets.of_nats.run(NEW_AUTHORITY);
    for holder in secrets.of_services.values().chain([&secrets.of_nats]) {
        holder.run(TRUST_BOTH);
    }
    secrets.reload_nats();
    secrets.of_nats.run(SHOW_NEW);
    secrets.reload_nats();
    // Each process learns the new secrets; calls for help are signed by both.
    for process in &mut fleet.processes {
        set_secrets(process, [JWT[0], JWT[1]], [DATA[0], DATA[1]], &format!("{} {}", SOS[1], SOS[0]));
        restart(process).await;
    }
    receivers.trust_webhook("/sos", SOS[1]);
    let [push_before, push_after] = &secrets.push;
    receivers.trust_push(&[push_before, push_after]);
    // Each signs with the new ones, and has new passwords and a new certificate.
    for service in SERVICES {
        let role = role(service);
        let named = [("rideshare_users", role.as_str()), ("NEW", "new")];
        postgres.runs(&runbook::block("Passwords of PostgreSQL", 0, &named));
        secrets.changed.push(service);
        secrets.of_services[service].run(SHOW_NEW);
        secrets.of_services[service].run(TRUST_NEW);
        secrets.reload_nats();
        let process = fleet.processes.iter_mut().find(|process| process.service == service).unwrap();
        process.addresses = secrets.addresses(service);
        set_secrets(process, [JWT[1], JWT[0]], [DATA[1], DATA[0]], SOS[1]);
        if service == "users" {
            process.environment.extend(receivers.push_settings(&secrets.push[1]));
        }
        restart(process).await;
    }
    // What was is worth nothing any more.
    secrets.of_nats.run(TRUST_NEW);
    secrets.reload_nats();
    receivers.trust_push(&[&secrets.push[1]]);
}

/// People without sockets take rides, one after another, until everything has changed and one more has done so.
async fn scripts(platform: &Platform, receivers: &Receivers, changed: &Cell<bool>) -> i64 {
    let mut number = 0;
    loop {
        let is_last = changed.get();
        number += 1;
        tokio::join!(script::ride(platform, receivers, number), script::ride_with_phones(platform, receivers, number));
        if is_last {
            return i64::from(number);
        }
    }
}

#[tokio::test]
async fn every_secret_changes_while_rides_go_on() {
    let logs = Directory::new();
    let postgres = Postgres::new(&logs.0).await;
    let owner_url = Postgres::url(postgres.port());
    let mut owner = PgConnection::connect(&owner_url).await.unwrap();
    for service in SERVICES {
        execute(&mut owner, &format!("create role {} login password 'old'", role(service))).await;
    }
    postgres.admit("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n");
    let before = Certificates::new(&logs.0.join("old-certs")).unwrap();
    std::fs::create_dir(logs.0.join("new-certs")).unwrap();
    let of_nats = Holder::new("nats", &logs.0, &before);
    let users = shipped::users(|user| password(user, When::Before)).unwrap();
    let mut secrets = Secrets {
        nats: Server::configured(&(users + &of_nats.certificates.of_server())).unwrap(),
        postgres_port: postgres.port(),
        of_services: SERVICES.map(|service| (service, Holder::new(&format!("of-{service}"), &logs.0, &before))).into(),
        of_nats,
        changed: Vec::new(),
        push: ["before", "after"].map(|when| PushKeys::new(when, logs.0.join(format!("push-{when}")))),
    };
    let receivers = Receivers::new().await;
    receivers.trust_push(&[&secrets.push[0]]);
    let operator = secrets.admin(&before);
    operator.succeeds(&["streams", "apply"]).await;
    operator.succeeds(&["migrate", "--role-prefix", "city_"]).await;

    let mut fleet = Fleet::of(&logs, |service| secrets.addresses(service));
    fleet.set(&receivers.settings());
    fleet.set(&receivers.push_settings(&secrets.push[0]));
    for process in &mut fleet.processes {
        set_secrets(process, [JWT[0], ""], [DATA[0], ""], SOS[0]);
    }
    fleet.start().await;
    let (day, observations) = fleet.day(PEOPLE, 4, 7);
    let day = Config { outage: Duration::from_secs(60), ..day };
    let platform = Platform::of(&fleet);
    let (changed, days, number) = (Cell::new(false), Cell::new(0_i64), Cell::new(0_i64));
    let changes = async {
        change(&mut fleet, &postgres, &mut secrets, &receivers).await;
        changed.set(true);
    };
    let scripted = async {
        number.set(scripts(&platform, &receivers, &changed).await);
    };
    // While somebody still needs a driver, another day begins, with other people.
    let city = async {
        while number.get() == 0 {
            let summary = simulator::run(day.clone()).await.unwrap();
            assert!(summary.completed >= 4 && summary.passed(), "{summary}");
            days.set(days.get() + 1);
        }
    };
    tokio::join!(city, scripted, changes);
    let scripted = number.get();
    drop(day);
    judge(&secrets.admin(&secrets.of_nats.certificates), &observations).await;
    assert_eq!(receivers.refused(), Vec::<String>::new(), "each receiver knew who signed");
    let new = &secrets.push[1];
    for (to, by) in [
        (format!("phone:{scripted}"), &new.id),
        (format!("{scripted:064x}"), &new.id),
        (format!("browser-{scripted}"), &new.vapid_public()),
    ] {
        let keys = receivers.pushed_by(&to);
        assert!(!keys.is_empty() && keys.iter().all(|key| key == by), "{to}: by {keys:?} and not by {by}");
    }
    // Whoever is signed out signs in again, which is a row more.
    let sign_ins: i64 =
        sqlx::query_scalar("select count(*) from users.user_sign_ins").fetch_one(&mut owner).await.unwrap();
    assert_eq!(sign_ins, days.get() * 2 * PEOPLE as i64 + 3 * scripted, "nobody was signed out");
    for process in &fleet.processes {
        assert_eq!(process.lives, 3, "{}: at first, with the new secrets known, with all changed", process.name);
    }
    fleet.stop().await;
    let refused = PgConnection::connect(&database_url(postgres.port(), "city_users", "old")).await;
    assert!(refused.is_err(), "the old password is of no use");
    let after = &secrets.of_nats.certificates;
    for (shows, trusts) in [(&before, after), (after, &before)] {
        let stale = before.copy(&logs.0.join("stale")).unwrap();
        stale.show(shows).unwrap();
        stale.trust(trusts).unwrap();
        let admin = secrets.admin(&stale);
        let connected = tokio::time::timeout(Duration::from_secs(2), admin.connect()).await;
        assert!(!matches!(connected, Ok(Ok(_))), "the certificate of before is shown or trusted");
    }
}
