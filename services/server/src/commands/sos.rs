//! `rideshare sos`: calls for help, in the database. Who closes one ends the positions that go to the operators' sink.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use chrono::SecondsFormat;
use clap::Subcommand;
use platform::{Store, World};
use rides::sos::{self, Alert};
use streams::Service;
use uuid::Uuid;

use crate::app;
use crate::databases::DatabaseUrl;
use crate::output::{noteln, outln};
use crate::settings::Settings;

/// Connections to the database.
const CONNECTIONS: u32 = 2;

#[derive(Debug, Subcommand)]
pub enum SosAction {
    /// List those that are open, the newest first.
    List,
    /// Close one, when the person is safe. Status 1 if there is none.
    Close {
        /// Its id, as `list` shows it.
        sos_id: Uuid,
        /// What was found out and done.
        #[arg(long)]
        reason: String,
    },
}

/// Does what the command line says.
///
/// # Errors
/// A sentence for the person who typed it.
pub async fn run(settings: &Settings, action: &SosAction) -> Result<ExitCode> {
    let DatabaseUrl { url, setting } = settings
        .database_of(Service::Rides)
        .context("calls for help are in a database: set DATABASE_URL, or DATABASE_URL_RIDES")?;
    let world = World::real();
    let store: Store<rides::Tables> =
        Store::postgres(&world, &app::pod_id(settings), url, "rides", &rides::MIGRATIONS, CONNECTIONS)
            .await
            .context(setting)?;
    match action {
        SosAction::List => {
            let open = sos::open_alerts(&store).await?;
            outln!("{} open", open.len())?;
            for alert in &open {
                outln!("{}", line(alert))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        SosAction::Close { sos_id, reason } => {
            ensure!(!reason.trim().is_empty(), "--reason says what was found out and done");
            if sos::close_alert(&store, &world, *sos_id, reason.trim()).await? {
                outln!("{sos_id} is closed")?;
                return Ok(ExitCode::SUCCESS);
            }
            noteln!("there is no call for help {sos_id}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn line(alert: &Alert) -> String {
    let raised_at = alert.raised_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let state = match (alert.delivery.accepted_at, alert.delivery.dead_at) {
        (Some(_), _) => "informed",
        (None, Some(_)) => "NOT REACHED",
        (None, None) => "waiting",
    };
    let note = alert.note.as_deref().unwrap_or("-");
    format!("{} ride {} user {} {raised_at} {state}: {note}", alert.sos_id, alert.ride_id, alert.user)
}
