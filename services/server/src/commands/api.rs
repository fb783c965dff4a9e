//! `rideshare api`: the documents of the interfaces, as they are served.

use std::process::ExitCode;

use clap::Subcommand;

use crate::api;

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ApiAction {
    /// Write the HTTP interface as OpenAPI 3.1, as GET /openapi.json answers.
    Openapi,
    /// Write the WebSocket and the messages on NATS as AsyncAPI 3.1, as GET /asyncapi.json answers.
    Asyncapi,
}

pub fn run(action: ApiAction) -> ExitCode {
    match action {
        ApiAction::Openapi => print!("{}", api::openapi_text()),
        ApiAction::Asyncapi => print!("{}", api::asyncapi_text()),
    }
    ExitCode::SUCCESS
}
