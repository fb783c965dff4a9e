//! `audit verify`: the stream by itself, the tables by themselves, and the one against the other. Each side is read once.

use std::sync::atomic::Ordering;

use streams::RideId;
use uuid::Uuid;

use super::compare::{Comparison, Difference, describe};
use super::database::DatabaseAudit;
use super::findings::{Finding, Findings};
use super::rows;
use super::sources::{AuditError, PAGE, STREAM, Sources};
use super::stream::{Beginning, StreamAudit};
use crate::event_log::rows::events_at;

/// Differences that are described byte by byte; each takes two reads.
const DESCRIBED_MAX: u64 = 100;

/// What was verified, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Messages in the stream.
    pub messages: u64,
    /// Rides in the tables.
    pub rides: u64,
    /// Of them, those that have not ended.
    pub live: u64,
    /// Events in the event log.
    pub events: u64,
    /// Entries in the ledger.
    pub entries: u64,
    /// Events that are committed and wait in the outbox.
    pub waiting: u64,
    /// Whether the stream has deleted its oldest events, as its age limit demands.
    pub trimmed: bool,
    pub findings: Findings,
}

pub(super) async fn verify(sources: &Sources) -> Result<Report, AuditError> {
    let horizon = sources.horizon();
    let first_sequence = sources.bus.stream_info(STREAM).await?.first_sequence;
    let mut stream = StreamAudit::new(Beginning::of(first_sequence));
    let mut comparison = Comparison::read(sources, horizon, Some(&mut stream)).await?;
    let mut database = DatabaseAudit::default();
    let (mut waiting, mut differences) = (0, Findings::default());
    let mut first = Some(RideId(Uuid::nil()));
    while let Some(from) = first {
        let bound = comparison.bound(from).await?;
        let page = rows::records(&mut sources.store.snapshot().await?, from, bound, PAGE).await?;
        for records in &page.records {
            database.check(records);
        }
        sources.progress.rides.fetch_add(page.records.len() as u64, Ordering::Relaxed);
        let (rides, unpublished) = comparison.page(&page.records, from, page.last).await?;
        waiting += unpublished;
        for (ride, comparison) in &rides {
            for (version, difference) in comparison.differences() {
                let finding = finding(sources, *ride, version, difference, differences.count()).await?;
                differences.push(finding);
            }
        }
        first = page.next;
    }
    let mut report = Report {
        messages: stream.messages,
        rides: database.rides,
        live: database.live,
        events: database.events,
        entries: database.entries,
        waiting,
        trimmed: first_sequence > 1,
        findings: stream.findings,
    };
    report.findings.append(database.findings);
    report.findings.append(differences);
    Ok(report)
}

async fn finding(
    sources: &Sources,
    ride: RideId,
    version: u32,
    difference: Difference,
    described: u64,
) -> Result<Finding, AuditError> {
    let (sequence, what) = match difference {
        Difference::Missing => {
            (None, "it is in the database and not in the stream: `audit repair` publishes it again".to_owned())
        }
        Difference::Repeated(at) => {
            let at: Vec<String> = at.iter().map(u64::to_string).collect();
            (None, format!("it stands {} times in the stream, at the sequences {}", at.len(), at.join(", ")))
        }
        Difference::Unknown(at) => (Some(at), "it is in the stream and not in the database".to_owned()),
        Difference::Another(at) if described < DESCRIBED_MAX => {
            let stored = sources.bus.get_message(STREAM, at).await?;
            let logged = events_at(&mut sources.store.begin().await?, &[(ride, version)]).await?;
            let what = match logged.get(&(ride, version)) {
                Some(logged) => describe(&stored, logged),
                None => "the database no longer has it".to_owned(),
            };
            (Some(at), what)
        }
        Difference::Another(at) => (Some(at), "the stream's is not the database's".to_owned()),
    };
    Ok(Finding::of_event(ride, version, sequence, what))
}
