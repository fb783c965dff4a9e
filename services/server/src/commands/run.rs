//! `rideshare run`: services in this process, until a signal ends it.

use std::process::ExitCode;

use anyhow::Result;
use platform::World;
use streams::Service;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::App;
use crate::open_files;
use crate::output::noteln;
use crate::settings::{QueueType, Settings};

/// The service with this name.
pub(crate) fn service(name: &str) -> Result<Service, String> {
    Service::ALL
        .into_iter()
        .find(|service| service.name() == name)
        .ok_or_else(|| format!("unknown service `{name}`: use users, match, rides, location"))
}

/// Runs `services`, or all if none is named.
///
/// # Errors
/// If they cannot be started.
pub async fn run(settings: &Settings, services: &[Service]) -> Result<ExitCode> {
    let services = if services.is_empty() { &Service::ALL[..] } else { services };
    let names = services.iter().map(|s| s.name()).collect::<Vec<_>>().join(", ");
    open_files::raise();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Without a file to read again, the end of a terminal ends the program, as usual.
    let has_files = settings.markets_path().is_some() || settings.admin_tokens_path().is_some();
    let mut hangup = has_files.then(|| signal(SignalKind::hangup())).transpose()?;
    let mut app = tokio::select! {
        biased;
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        app = App::start(settings, services, World::real()) => app?,
    };
    if !settings.has_database() {
        tracing::warn!("state is in memory and gone at exit: set DATABASE_URL to keep it");
    } else if settings.queue_type == QueueType::Memory {
        tracing::warn!("the bus is in memory: events under way are gone at exit, although the database stays");
    }
    tracing::info!(pod = %app.platform.pod, "{names}: http://{}", app.addr);
    print_console(&app, "");
    let code = loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => break ExitCode::SUCCESS,
            _ = terminate.recv() => break ExitCode::SUCCESS,
            () = hung_up(&mut hangup) => app.reload(settings),
            why = app.broken() => {
                tracing::error!("{why}");
                break ExitCode::FAILURE;
            }
        }
    };
    tracing::info!("stopping");
    let drained = tokio::select! {
        biased;
        drained = app.stop() => drained,
        // A second Ctrl-C: the person does not want to wait for the drain.
        _ = interrupt.recv() => false,
    };
    if !drained {
        tracing::warn!(
            "stopped before all work was finished; acknowledged events are stored, and handled at the next start"
        );
    }
    Ok(code)
}

/// Prints where the console is, with the token that an embedded process made: to standard error, as the logs are, but in no log.
/// `page` is the one that it opens with.
pub(crate) fn print_console(app: &App, page: &str) {
    if let Some(token) = &app.admin_token {
        noteln!("console: http://{}/console{page}#token={token}", app.admin_addr.unwrap_or(app.addr));
    }
}

/// The next SIGHUP; pending for ever where nobody listens for it.
async fn hung_up(hangup: &mut Option<Signal>) {
    let received = match hangup {
        Some(hangup) => hangup.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending::<()>().await;
    }
}
