//! `rideshare dispatch`: how drivers are offered to passengers. `evaluate` tries policies on recorded demand, `explain` and `what-if`
//! run what the engine recorded again.
//!
//! Results go to standard output.

mod evaluate;
mod explain;
mod what_if;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use platform::{Store, World};
use streams::Service;

use crate::app;
use crate::databases::DatabaseUrl;
use crate::settings::Settings;

/// Connections to the database.
const CONNECTIONS: u32 = 2;

#[derive(Debug, Subcommand)]
pub enum DispatchAction {
    /// Try policies on recorded demand: the real engine, in simulated time, with a simulated fleet.
    Evaluate(evaluate::Evaluate),
    /// Why a passenger was offered this driver: the candidates, and why the others were left out. The recorded inputs are run through the
    /// engine again. Status 1 if the same decision does not come out.
    Explain(explain::Explain),
    /// Run the recorded inputs under another policy, beside what happened.
    WhatIf(what_if::WhatIf),
}

/// Does what the command line says.
///
/// # Errors
/// A sentence for the person who typed it.
pub async fn run(settings: &Settings, action: &DispatchAction) -> Result<ExitCode> {
    match action {
        DispatchAction::Evaluate(what) => evaluate::run(settings, what),
        DispatchAction::Explain(what) => explain::run(&store(settings, &World::real()).await?, what).await,
        DispatchAction::WhatIf(what) => {
            let world = World::real();
            what_if::run(&store(settings, &world).await?, &world, what).await
        }
    }
}

/// The tables of match, where its record is.
async fn store(settings: &Settings, world: &World) -> Result<Store<matching::Tables>> {
    let DatabaseUrl { url, setting } = settings.database_of(Service::Match).context(
        "what the engine decides is recorded in a database: set DATABASE_URL, or DATABASE_URL_MATCH. Without one the record lives \
         in the process that matches, and only drivers can ask it, by GET /v1/me/missed-offers",
    )?;
    let migrations = &matching::MIGRATIONS;
    Store::postgres(world, &app::pod_id(settings), url, "matching", migrations, CONNECTIONS).await.context(setting)
}
