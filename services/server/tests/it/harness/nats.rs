//! The nats-server of a test: open to everybody, or as `docker/` ships it, where each service is a user of its own.

use std::process::Output;

use platform::World;
use server::app;
use server::nats_login::NatsLogin;
use server::settings::Settings;
use streams::Bus;
use streams::topology::Topology;
use testing::nats::Server;
use testing::shipped;

use super::rideshare;

/// Says for the whole suite which server its tests on NATS have: `open`, or `secured`, as `scripts/test-secured` does.
const VARIABLE: &str = "RIDESHARE_TEST_NATS";

/// Whom a test is that speaks to the server itself: it makes the topology, publishes what nobody may, and watches.
const ADMIN: &str = "admin";

pub(crate) struct Nats(Server);

impl Nats {
    /// The server that this run of the suite is about. If no service may make the topology, it is there, as after `rideshare streams apply`.
    pub(crate) async fn start() -> Self {
        let nats = Self::bare();
        nats.apply_if_secured().await;
        nats
    }

    /// The server of compose.yaml.
    pub(crate) async fn secured() -> Self {
        let nats = Self(Server::shipped().unwrap());
        nats.apply_if_secured().await;
        nats
    }

    /// A server without a stream.
    pub(crate) fn bare() -> Self {
        match std::env::var(VARIABLE).as_deref() {
            Err(_) | Ok("open") => Self(Server::configured("http: \"127.0.0.1:-1\"\n").unwrap()),
            Ok("secured") => Self(Server::shipped().unwrap()),
            Ok(other) => panic!("{VARIABLE} is open or secured, not {other}"),
        }
    }

    /// What an operator does before services start, and after a stream was lost; on an open server the services do it.
    pub(crate) async fn apply_if_secured(&self) {
        if self.is_secured() {
            self.bus().await.apply(&Topology::rideshare().with_sweeper()).await.unwrap();
        }
    }

    pub(crate) fn is_secured(&self) -> bool {
        self.0.certificates().is_some()
    }

    pub(crate) fn url(&self) -> &str {
        &self.0.url
    }

    pub(crate) fn directory(&self) -> &std::path::Path {
        &self.0.directory
    }

    /// What the program needs to connect; on a secured server as this user.
    pub(crate) fn arguments(&self, user: &str) -> Vec<String> {
        let mut arguments = vec!["--queue-type".to_owned(), "nats".to_owned()];
        arguments.extend(["--nats-url".to_owned(), self.0.url.clone()]);
        if let Some(certificates) = self.0.certificates() {
            for (name, value) in [
                ("--nats-ca", certificates.file("ca.pem")),
                ("--nats-user", user.to_owned()),
                ("--nats-password", shipped::password(user)),
                ("--nats-inbox-prefix", format!("_INBOX_{user}")),
            ] {
                arguments.extend([name.to_owned(), value]);
            }
        }
        arguments
    }

    /// Runs a command of the program as the user that `docker/RUNBOOK.md` names for it.
    pub(crate) fn rideshare(&self, command: &[&str]) -> Output {
        let login = self.arguments(user_of(command));
        rideshare(&[command, &login.iter().map(String::as_str).collect::<Vec<_>>()].concat())
    }

    /// The same on a thread of its own: the platform of the test's process goes on meanwhile.
    pub(crate) async fn rideshare_meanwhile(&self, command: &[&str]) -> Output {
        let mut all: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        all.extend(self.arguments(user_of(command)));
        let run = move || rideshare(&all.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// Settings with these arguments, as the administrator.
    pub(crate) fn settings(&self, more: &[&str]) -> Settings {
        let login = self.arguments(ADMIN);
        super::running::settings(&[&login.iter().map(String::as_str).collect::<Vec<_>>(), more].concat())
    }

    /// A connection of the test's own, as the administrator.
    pub(crate) async fn bus(&self) -> Bus {
        app::bus(&self.settings(&[]), &World::real(), "test").await.unwrap()
    }

    /// A raw client of the test's own, as the administrator.
    pub(crate) async fn client(&self) -> async_nats::Client {
        let mut options = async_nats::ConnectOptions::new();
        if let Some(certificates) = self.0.certificates() {
            options = options.user_and_password(ADMIN.to_owned(), shipped::password(ADMIN));
            options = options.add_root_certificates(certificates.file("ca.pem").into()).require_tls(true);
        }
        options.connect(self.url()).await.unwrap()
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.assert_nothing_refused();
        self.0.kill();
    }

    /// Starts it again, with its files.
    pub(crate) fn start_again(&mut self) {
        self.0.start().unwrap();
    }

    /// Everybody has had the permissions for what they did.
    pub(crate) fn assert_nothing_refused(&self) {
        let refused = self.0.refused();
        assert!(refused.is_empty(), "{refused:#?}");
    }
}

/// The user for this command, by `docker/RUNBOOK.md`.
fn user_of(command: &[&str]) -> &'static str {
    match command {
        ["streams", "apply" | "rewind", ..] | ["audit", "repair", ..] => ADMIN,
        _ => "operator",
    }
}

/// The settings of a process that is this user of the server: with those of an open server everybody is the same.
pub(crate) fn as_user(settings: &Settings, user: &str) -> Settings {
    if settings.nats.nats_user.is_none() {
        return settings.clone();
    }
    let nats = NatsLogin {
        nats_user: Some(user.to_owned()),
        nats_password: Some(shipped::password(user)),
        nats_inbox_prefix: format!("_INBOX_{user}"),
        ..settings.nats.clone()
    };
    Settings { nats, ..settings.clone() }
}
