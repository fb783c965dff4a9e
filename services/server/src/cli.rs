//! The command line: every command and the settings, and which function does it.

use std::process::ExitCode;

use ::streams::Service;
use anyhow::Result;
use clap::{ArgAction, Parser, Subcommand};

use crate::app;
use crate::commands::api::ApiAction;
use crate::commands::audit::AuditAction;
use crate::commands::dead_letters::DeadLettersAction;
use crate::commands::dispatch::DispatchAction;
use crate::commands::markets::MarketsAction;
use crate::commands::simulate::{City, Stay};
use crate::commands::sos::SosAction;
use crate::commands::streams::StreamsAction;
use crate::commands::{api, audit, dead_letters, dispatch, markets, misbehave, run, simulate, sos, streams};
use crate::output::outln;
use crate::settings::Settings;

/// An event-driven ride-sharing backend: users, match, rides and location over NATS JetStream. Without a command it runs all services in this
/// process, embedded: memory bus, state in memory, nothing to install. Every setting is a flag and an environment variable.
#[derive(Debug, Parser)]
#[command(name = "rideshare", version, max_term_width = 110, disable_help_flag = true)]
pub struct Cli {
    /// Print this.
    // The short form: a setting with its variable and default in a row, not in a paragraph each.
    #[arg(short, long, action = ArgAction::HelpShort, global = true)]
    help: Option<bool>,
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run all services, or those named.
    Run {
        /// Some of users, match, rides, location; with commas.
        #[arg(value_delimiter = ',', value_parser = run::service)]
        services: Vec<Service>,
    },
    /// Run everything embedded, with simulated drivers and passengers taking rides over real WebSockets.
    Demo {
        /// Instead, serve at HTTP_ADDR until Ctrl-C, without simulated people, and misbehave on purpose: the same way for the same seed. For
        /// people who test their app: answers and frames are late or lost, requests get 503 and 429 with Retry-After, sockets are cut off,
        /// fall silent, or close with 1001 and 1012. Nothing of it is against the contract.
        #[arg(long, value_name = "SEED")]
        faults: Option<u64>,
        /// Stay after the last ride, until Ctrl-C, so that the console can be read.
        #[arg(long)]
        stay: bool,
        #[command(flatten)]
        city: City,
    },
    /// Run the same simulated city against a platform that runs elsewhere.
    Simulate {
        /// Where users answers: `http://host:port`; several with commas.
        #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:8080")]
        url: Vec<String>,
        /// Where rides answers, if elsewhere.
        #[arg(long)]
        rides_url: Option<String>,
        #[command(flatten)]
        city: City,
    },
    /// The interfaces for programs: write their documents, as they are served.
    Api {
        #[command(subcommand)]
        action: ApiAction,
    },
    /// The topology: compare it with the server's, apply it to the server, or write it as JSON.
    Streams {
        #[command(subcommand)]
        action: StreamsAction,
    },
    /// The audit trail, which is RIDE_STREAM: read it, verify it, repair it, rebuild the tables of rides from it.
    Audit {
        #[command(subcommand)]
        action: AuditAction,
    },
    /// The markets of MARKETS_FILE: check and list them, fit their speeds to trips that were driven.
    Markets {
        #[command(subcommand)]
        action: MarketsAction,
    },
    /// Dead letters, on the NATS server of NATS_URL: list, show, requeue, remove.
    DeadLetters {
        #[command(subcommand)]
        action: DeadLettersAction,
    },
    /// How drivers are offered to passengers: try policies on recorded demand.
    Dispatch {
        #[command(subcommand)]
        action: DispatchAction,
    },
    /// Calls for help, in the database of rides: list those that are open, close one.
    Sos {
        #[command(subcommand)]
        action: SosAction,
    },
    /// Apply the database migrations and end. (`run` does so too, if its role may.)
    Migrate {
        /// Then let the role of each schema read and write its rows, and nothing else. The roles are this prefix and users,
        /// matching, rides or location, and must exist.
        #[arg(long, env = "DATABASE_ROLE_PREFIX")]
        role_prefix: Option<String>,
    },
}

impl Cli {
    /// What is logged: RUST_LOG, or, so that people see the demo's own lines, less there.
    pub fn log(&self) -> &str {
        let is_demo = matches!(self.command, Some(Command::Demo { faults: None, .. }));
        self.settings.log.as_deref().unwrap_or(if is_demo { "warn" } else { "info" })
    }

    /// Does what the command line says.
    ///
    /// # Errors
    /// A sentence for the person who typed it.
    pub async fn run(self) -> Result<ExitCode> {
        let settings = self.settings;
        match self.command {
            None => run::run(&settings, &[]).await,
            Some(Command::Run { services }) => run::run(&settings, &services).await,
            Some(Command::Demo { faults: Some(seed), .. }) => misbehave::run(settings, seed).await,
            Some(Command::Demo { faults: None, city, stay }) => {
                let stays = if stay { Stay::UntilInterrupted } else { Stay::Ends };
                simulate::demo(settings, &city, stays).await
            }
            Some(Command::Simulate { url, rides_url, city }) => simulate::simulate(url, rides_url, &city).await,
            Some(Command::Api { action }) => api::run(action),
            Some(Command::Streams { action }) => streams::run(&settings, action).await,
            Some(Command::Audit { action }) => audit::run(&settings, &action).await,
            Some(Command::DeadLetters { action }) => dead_letters::run(&settings, &action).await,
            Some(Command::Markets { action }) => markets::run(&settings, &action),
            Some(Command::Dispatch { action }) => dispatch::run(&settings, &action).await,
            Some(Command::Sos { action }) => sos::run(&settings, &action).await,
            Some(Command::Migrate { role_prefix }) => {
                app::migrate(&settings, role_prefix.as_deref()).await?;
                outln!("all schemas are up to date")?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
