//! `rideshare demo --faults`: an embedded platform that misbehaves on purpose, for people who test their app.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use platform::World;
use platform::limits::Limits;
use streams::Service;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::http::Faults;
use crate::open_files;
use crate::output::noteln;
use crate::settings::Settings;

/// Rides of an app under test may be so much faster than life.
const SPEED_MAX_MPS: f64 = 4_200.0;

/// Serves with the faults of `seed` until a signal ends it.
///
/// # Errors
/// With settings that are not embedded, or if the platform does not start.
pub async fn run(settings: Settings, seed: u64) -> Result<ExitCode> {
    ensure!(settings.embedded(), "demo runs embedded: unset QUEUE_TYPE and DATABASE_URL");
    let settings = raised(settings);
    open_files::raise();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut app = App::start_with(&settings, &Service::ALL, World::real(), Some(Faults::new(seed))).await?;
    noteln!("the platform misbehaves by seed {seed} at http://{}: memory bus, state in memory", app.addr);
    let code = tokio::select! {
        biased;
        _ = interrupt.recv() => ExitCode::SUCCESS,
        _ = terminate.recv() => ExitCode::SUCCESS,
        why = app.broken() => {
            tracing::error!("{why}");
            ExitCode::FAILURE
        }
    };
    ensure!(app.stop().await, "the platform did not stop in time");
    Ok(code)
}

/// Whoever tests an app signs in more often in an hour, and rides faster, than a person does. What the caller set counts on top of that. How
/// codes are delivered is not changed: whoever reaches HTTP_ADDR from elsewhere gets none, unless the caller says so.
fn raised(settings: Settings) -> Settings {
    Settings {
        limits: format!("{},{}", Limits::raised(), settings.limits),
        track_max_speed_mps: settings.track_max_speed_mps.max(SPEED_MAX_MPS),
        ..settings
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn codes_are_in_the_answer_only_on_this_machine_or_if_somebody_asked_for_it() {
        let delivery = |args: &[&str]| {
            let args = ["rideshare", "demo", "--faults", "1"].iter().chain(args);
            raised(Cli::try_parse_from(args).unwrap().settings).otp_delivery().to_owned()
        };
        assert_eq!(delivery(&["--http-addr", "127.0.0.1:0"]), "response");
        assert_eq!(delivery(&["--http-addr", "0.0.0.0:0"]), "log");
        assert_eq!(delivery(&["--http-addr", "0.0.0.0:0", "--otp-delivery", "response"]), "response");
    }
}
