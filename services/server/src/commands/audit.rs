//! `rideshare audit`: RIDE_STREAM read, verified, repaired, and rebuilt or recovered into tables.
//!
//! Verify, repair, rebuild and recover are those of `rides::audit`; replay is `audit/replay.rs`. Results go to standard output, progress to
//! standard error. Nothing here touches a durable consumer.

pub mod replay;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use platform::{Store, World};
use rides::audit::{Audit, AuditError, Findings, Progress};
use streams::{Bus, Service};

use super::progress::ProgressLine;
use crate::app;
use crate::databases::DatabaseUrl;
use crate::output::{noteln, outln};
use crate::settings::{QueueType, Settings};

#[derive(Debug, Subcommand)]
pub enum AuditAction {
    /// Read RIDE_STREAM in order, without touching any consumer.
    Replay(replay::Replay),
    /// Check it: hash chains, legal orders, versions, every ride and event of the database against the stream, the ledger.
    /// Differences are listed, with status 1. The platform may run meanwhile.
    Verify,
    /// Write the tables of rides from it into the database of rides, which must have no rides. Payments are captured by
    /// PAYMENT_PROVIDER again.
    Rebuild,
    /// Add to the tables of rides what it has and they lack, after a restore of the database to an earlier moment, before any service
    /// runs again. Payments are captured by PAYMENT_PROVIDER.
    Recover,
    /// Publish the events again that the database has and the stream lacks, with their ids and hashes, each ride in order. Status
    /// 1 if something could not be repaired. The platform may run meanwhile.
    Repair,
}

/// Does what the command line says.
///
/// # Errors
/// A sentence for the person who typed it.
pub async fn run(settings: &Settings, action: &AuditAction) -> Result<ExitCode> {
    ensure!(
        settings.queue_type == QueueType::Nats,
        "the trail of a memory bus is inside the process that runs it and gone with it: audit reads a NATS server, set \
         QUEUE_TYPE=nats and NATS_URL"
    );
    if !matches!(action, AuditAction::Replay(_)) {
        rides_database(settings)?;
    }
    let world = World::real();
    let bus = app::bus(settings, &world, "audit").await?;
    match action {
        AuditAction::Replay(what) => replay::run(&bus, &world, what).await,
        AuditAction::Verify => verify(&audit(settings, &bus, &world).await?).await,
        AuditAction::Recover => recover(settings, &audit(settings, &bus, &world).await?).await,
        AuditAction::Rebuild => rebuild(settings, &audit(settings, &bus, &world).await?).await,
        AuditAction::Repair => {
            // A missing stream is created first, with its consumers.
            for change in bus.apply(&settings.stream_sizes.topology()).await? {
                noteln!("{change}");
            }
            repair(&audit(settings, &bus, &world).await?).await
        }
    }
}

fn rides_database(settings: &Settings) -> Result<DatabaseUrl<'_>> {
    let why = "this compares the stream with a database: set DATABASE_URL, or DATABASE_URL_RIDES";
    settings.database_of(Service::Rides).context(why)
}

pub(crate) async fn audit(settings: &Settings, bus: &Bus, world: &World) -> Result<Audit> {
    let DatabaseUrl { url, setting } = rides_database(settings)?;
    let store: Store<rides::Tables> =
        Store::postgres(world, &app::pod_id(settings), url, "rides", &rides::MIGRATIONS, 4).await.context(setting)?;
    Ok(Audit::new(bus, &store, world))
}

async fn verify(audit: &Audit) -> Result<ExitCode> {
    let report = with_progress(&audit.progress, audit.verify()).await?;
    list(&report.findings)?;
    outln!(
        "{} messages in the stream; {} rides in the database, {} of them live, with {} events and {} ledger entries",
        report.messages,
        report.rides,
        report.live,
        report.events,
        report.entries
    )?;
    if report.trimmed {
        outln!("the oldest events are gone from the stream, as its age limit wants; the database has them")?;
    }
    if report.waiting > 0 {
        outln!("{} events are committed and not published yet", report.waiting)?;
    }
    conclude(&report.findings, "all of it is sound")
}

async fn rebuild(settings: &Settings, audit: &Audit) -> Result<ExitCode> {
    let provider = settings.payment_provider.parse().map_err(anyhow::Error::msg).context("PAYMENT_PROVIDER")?;
    let rebuilt = with_progress(&audit.progress, audit.rebuild(provider)).await?;
    list(&rebuilt.findings)?;
    if rebuilt.findings.count() > 0 {
        outln!("nothing was written: the trail is not sound")?;
        return conclude(&rebuilt.findings, "");
    }
    outln!(
        "of {} messages: {} rides, {} events and {} ledger entries",
        rebuilt.messages,
        rebuilt.rides,
        rebuilt.events,
        rebuilt.entries
    )?;
    if rebuilt.begun_before > 0 {
        outln!("left out: {} rides that began before the stream does", rebuilt.begun_before)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn recover(settings: &Settings, audit: &Audit) -> Result<ExitCode> {
    let provider = settings.payment_provider.parse().map_err(anyhow::Error::msg).context("PAYMENT_PROVIDER")?;
    let recovered = with_progress(&audit.progress, audit.recover(provider)).await?;
    list(&recovered.findings)?;
    if recovered.findings.count() > 0 {
        outln!("nothing was written")?;
        return conclude(&recovered.findings, "");
    }
    outln!(
        "of {} messages the database lacked: {} events of {} rides; {} ledger entries were written for them",
        recovered.messages,
        recovered.events,
        recovered.rides,
        recovered.entries
    )?;
    outln!("{} pending payments are requested to be captured", recovered.captures)?;
    Ok(ExitCode::SUCCESS)
}

async fn repair(audit: &Audit) -> Result<ExitCode> {
    let done = with_progress(&audit.progress, audit.repair()).await?;
    list(&done.findings)?;
    outln!(
        "{} events published again ({} of them were there after all), {} copies deleted that stood in another's place",
        done.published,
        done.duplicates,
        done.deleted
    )?;
    if done.waiting > 0 {
        outln!("{} events are committed and not published yet: the platform does that", done.waiting)?;
    }
    conclude(&done.findings, "the stream has all that it must have")
}

fn list(findings: &Findings) -> Result<()> {
    for finding in findings.listed() {
        outln!("{finding}")?;
    }
    let rest = findings.count() - findings.listed().len() as u64;
    if rest > 0 {
        outln!("… and {rest} more")?;
    }
    Ok(())
}

fn conclude(findings: &Findings, if_none: &str) -> Result<ExitCode> {
    match findings.count() {
        0 => outln!("{if_none}")?,
        1 => outln!("1 difference")?,
        n => outln!("{n} differences")?,
    }
    Ok(if findings.count() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs `work` and shows its progress.
async fn with_progress<T>(progress: &Arc<Progress>, work: impl Future<Output = Result<T, AuditError>>) -> Result<T> {
    let progress = progress.clone();
    let line = ProgressLine::start(move || {
        let (messages, rides) = progress.read();
        format!("{messages} messages and {rides} rides read")
    });
    let done = work.await;
    line.stop();
    Ok(done?)
}
