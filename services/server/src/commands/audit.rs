//! `rideshare audit`: what an operator asks of the audit trail, and how the answers are shown.
//!
//! The checks, the repair and the rebuild are those of `rides::audit`; replay is `audit/replay.rs`. Answers go to standard
//! output, progress to standard error. Nothing here touches a durable consumer.

pub mod replay;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use platform::{Store, World};
use rides::audit::{Audit, AuditError, Findings, Progress};
use streams::Bus;
use streams::topology::Topology;
use tokio::task::JoinHandle;

use crate::app;
use crate::settings::{QueueType, Settings};

/// Progress is told from here on, and as often.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// On a terminal.
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// What to do with the audit trail.
#[derive(Debug, Subcommand)]
pub enum AuditAction {
    /// Read RIDE_STREAM in order, without touching any consumer.
    Replay(replay::Replay),
    /// Prove it: hash chains, legal orders, versions, every ride and event of the database against the stream, the ledger.
    /// Differences are listed, with status 1. The platform may run meanwhile.
    Verify,
    /// Make the tables of rides again from it, in the database of DATABASE_URL, which must have none. Bills are asked of
    /// PAYMENT_PROVIDER again.
    Rebuild,
    /// Publish again what the database has and the stream has not, with its own ids and hashes, each ride in order. Status 1
    /// if something could not be repaired. The platform may run meanwhile.
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
        ensure!(settings.database_url.is_some(), "this compares the stream with a database: set DATABASE_URL");
    }
    let world = World::real();
    let bus = app::bus(settings, &world, "audit").await?;
    match action {
        AuditAction::Replay(what) => replay::run(&bus, &world, what).await,
        AuditAction::Verify => verify(&audit(settings, &bus, &world).await?).await,
        AuditAction::Rebuild => rebuild(settings, &audit(settings, &bus, &world).await?).await,
        AuditAction::Repair => {
            // A stream that is gone is made first, with whoever reads it.
            for change in bus.apply(&Topology::rideshare()).await? {
                eprintln!("{change}");
            }
            repair(&audit(settings, &bus, &world).await?).await
        }
    }
}

pub(crate) async fn audit(settings: &Settings, bus: &Bus, world: &World) -> Result<Audit> {
    let url = settings.database_url.as_deref().unwrap_or_default();
    let store: Store<rides::Tables> = Store::postgres(world, &app::pod(settings), url, "rides", &rides::MIGRATIONS, 4)
        .await
        .context("DATABASE_URL")?;
    Ok(Audit::new(bus, &store, world))
}

async fn verify(audit: &Audit) -> Result<ExitCode> {
    let report = shown(&audit.progress, audit.verify()).await?;
    list(&report.findings);
    println!(
        "{} messages in the stream; {} rides in the database, {} of them live, with {} events and {} ledger entries",
        report.messages, report.rides, report.live, report.events, report.entries
    );
    if report.trimmed {
        println!("the oldest events are gone from the stream, as its age limit wants; the database has them");
    }
    if report.waiting > 0 {
        println!("{} events are committed and not published yet", report.waiting);
    }
    Ok(conclude(&report.findings, "all of it is sound"))
}

async fn rebuild(settings: &Settings, audit: &Audit) -> Result<ExitCode> {
    let provider = settings.payment_provider.parse().map_err(anyhow::Error::msg).context("PAYMENT_PROVIDER")?;
    let made = shown(&audit.progress, audit.rebuild(provider)).await?;
    list(&made.findings);
    if made.findings.count() > 0 {
        println!("nothing was written: the trail is not sound");
        return Ok(conclude(&made.findings, ""));
    }
    println!(
        "of {} messages: {} rides, {} events and {} ledger entries",
        made.messages, made.rides, made.events, made.entries
    );
    if made.begun_before > 0 {
        println!("left out: {} rides that began before the stream does", made.begun_before);
    }
    Ok(ExitCode::SUCCESS)
}

async fn repair(audit: &Audit) -> Result<ExitCode> {
    let done = shown(&audit.progress, audit.repair()).await?;
    list(&done.findings);
    println!(
        "{} events published again ({} of them were there after all), {} copies deleted that stood in another's place",
        done.published, done.duplicates, done.deleted
    );
    if done.waiting > 0 {
        println!("{} events are committed and not published yet: the platform does that", done.waiting);
    }
    Ok(conclude(&done.findings, "the stream has all that it must have"))
}

fn list(findings: &Findings) {
    for finding in findings.listed() {
        println!("{finding}");
    }
    let rest = findings.count() - findings.listed().len() as u64;
    if rest > 0 {
        println!("… and {rest} more");
    }
}

fn conclude(findings: &Findings, sound: &str) -> ExitCode {
    match findings.count() {
        0 => println!("{sound}"),
        1 => println!("1 difference"),
        n => println!("{n} differences"),
    }
    if findings.count() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs `work` and shows how far it has got: all the time on a terminal, now and then elsewhere.
async fn shown<T>(progress: &Arc<Progress>, work: impl Future<Output = Result<T, AuditError>>) -> Result<T> {
    let progress = progress.clone();
    let ticker = Ticker::start(move || {
        let (messages, rides) = progress.read();
        format!("{messages} messages and {rides} rides read")
    });
    let done = work.await;
    ticker.stop();
    Ok(done?)
}

/// Tells on standard error how far something has got.
pub(crate) struct Ticker(JoinHandle<()>);

impl Ticker {
    pub(crate) fn start(text: impl Fn() -> String + Send + 'static) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self(tokio::spawn(async move {
            loop {
                tokio::time::sleep(if terminal { SHOW_EVERY } else { TELL_EVERY }).await;
                // On a terminal each line takes the place of the one before.
                if terminal {
                    eprint!("\r\x1b[K{}", text());
                } else {
                    eprintln!("{}", text());
                }
            }
        }))
    }

    pub(crate) fn stop(self) {
        self.0.abort();
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}
