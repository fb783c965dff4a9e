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
use crate::settings::Settings;

/// Rides of an app under test may be so much faster than life.
const SPEED_MAX_MPS: f64 = 4_200.0;

/// Serves with the faults of `seed` until a signal ends it.
///
/// # Errors
/// With settings that are not embedded, or if the platform does not start.
pub async fn run(mut settings: Settings, seed: u64) -> Result<ExitCode> {
    ensure!(settings.embedded(), "demo runs embedded: unset QUEUE_TYPE and DATABASE_URL");
    open_files::raise();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    settings.otp_delivery.get_or_insert_with(|| "response".to_owned());
    // Whoever tests an app signs in more often in an hour than a person does. What the caller set counts on top of that.
    settings.limits = format!("{},{}", Limits::raised(), settings.limits);
    settings.track_max_speed_mps = settings.track_max_speed_mps.max(SPEED_MAX_MPS);
    let mut app = App::start_with(&settings, &Service::ALL, World::real(), Some(Faults::new(seed))).await?;
    eprintln!("the platform misbehaves by seed {seed} at http://{}: memory bus, state in memory", app.addr);
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
