//! `rideshare api`: the documents of the interfaces, as they are served.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::api;
use crate::output::out;

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ApiAction {
    /// Write the HTTP interface as OpenAPI 3.1, as GET /openapi.json answers.
    Openapi,
    /// Write the WebSocket and the messages on NATS as AsyncAPI 3.1, as GET /asyncapi.json answers.
    Asyncapi,
}

/// # Errors
/// Standard output cannot be written.
pub fn run(action: ApiAction) -> Result<ExitCode> {
    match action {
        ApiAction::Openapi => out!("{}", api::openapi_text())?,
        ApiAction::Asyncapi => out!("{}", api::asyncapi_text())?,
    }
    Ok(ExitCode::SUCCESS)
}
