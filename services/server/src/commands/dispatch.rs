//! `rideshare dispatch`: how drivers are offered to passengers. `evaluate` tries policies on recorded demand.
//!
//! Results go to standard output.

mod evaluate;
mod requests;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::settings::Settings;

#[derive(Debug, Subcommand)]
pub enum DispatchAction {
    /// Try policies on recorded demand: the real engine, in simulated time, with a simulated fleet.
    Evaluate(evaluate::Evaluate),
}

/// Does what the command line says.
///
/// # Errors
/// A sentence for the person who typed it.
pub fn run(settings: &Settings, action: &DispatchAction) -> Result<ExitCode> {
    match action {
        DispatchAction::Evaluate(what) => evaluate::run(settings, what),
    }
}
