//! `rideshare audit replay`: RIDE_STREAM in order, as a table for people, as JSON lines or as CSV for programs.
//!
//! It reads by an ordered consumer of its own, which ends with it. JSON lines have the bodies byte for byte.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use platform::World;
use rides::audit::STREAM;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use streams::bus::{MESSAGE_ID, ReplayStart, StoredMessage};
use streams::event::rfc3339;
use streams::topology::{Topology, subject_matches};
use streams::{Bus, Headers, Money, RideId, Subject};
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::progress::ProgressLine;

/// Messages of a batch.
const BATCH: usize = 1_000;
/// The wait for a message that the server says it has.
const STALL: Duration = Duration::from_secs(10);

/// What to read, and how to show it.
#[derive(Debug, Clone, Args)]
pub struct Replay {
    /// Only this ride.
    #[arg(long)]
    pub ride: Option<RideId>,
    /// From this time on, by the stream's clock: 2026-11-21T08:00:00Z, or how long ago: 90s, 15m, 2h, 3d.
    #[arg(long, value_parser = since, conflicts_with = "from_seq")]
    pub since: Option<Since>,
    /// From this sequence of the stream on.
    #[arg(long)]
    pub from_seq: Option<u64>,
    /// Only this subject: ride.pickup, ride.started, ride.arrived, ride.completed, ride.cancelled.
    #[arg(long, value_parser = subject)]
    pub subject: Option<String>,
    /// Wait for new events at the end, until interrupted.
    #[arg(long)]
    pub follow: bool,
    /// How to show it.
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
}

/// How to show the trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line each, for people.
    Table,
    /// A JSON object on each line: sequence, stored_at, subject, message_id, headers, data.
    Json,
    /// RFC 4180, with a head.
    Csv,
}

/// Where to begin in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Then.
    At(DateTime<Utc>),
    /// So long before now.
    Ago(chrono::Duration),
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(Since::At(at.to_utc()));
    }
    let ago = humantime::parse_duration(text).ok().and_then(|ago| chrono::Duration::from_std(ago).ok());
    ago.map(Since::Ago)
        .ok_or_else(|| "a time as 2026-11-21T08:00:00Z is needed, or how long ago as 90s, 15m, 2h, 3d".to_owned())
}

fn subject(text: &str) -> Result<String, String> {
    let topology = Topology::rideshare();
    let subjects = topology.streams.iter().filter(|s| s.name == STREAM).flat_map(|s| &s.subjects);
    let known: Vec<&String> = subjects.collect();
    if known.iter().any(|known| subject_matches(text, known)) {
        return Ok(text.to_owned());
    }
    let known: Vec<&str> = known.into_iter().map(String::as_str).collect();
    Err(format!("{STREAM} has no such subject: {}", known.join(", ")))
}

impl Replay {
    fn start(&self, world: &World) -> ReplayStart {
        match (self.since, self.from_seq) {
            (Some(Since::At(at)), _) => ReplayStart::Time(at),
            (Some(Since::Ago(ago)), _) => {
                ReplayStart::Time(world.now().checked_sub_signed(ago).unwrap_or(DateTime::UNIX_EPOCH))
            }
            (None, from) => ReplayStart::Sequence(from.unwrap_or(1)),
        }
    }
}

/// Replays to standard output until the end, or until interrupted if it follows.
///
/// # Errors
/// If the bus or standard output fails. A closed pipe is the end and no error.
pub async fn run(bus: &Bus, world: &World, what: &Replay) -> Result<ExitCode> {
    let seen = Arc::new(AtomicU64::new(0));
    // On a terminal that shows the events themselves a progress line would be noise.
    let progress = (!io::stdout().is_terminal()).then(|| {
        let seen = seen.clone();
        ProgressLine::start(move || format!("{} messages", seen.load(Ordering::Relaxed)))
    });
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut out = io::stdout().lock();
    let done = tokio::select! {
        biased;
        _ = interrupt.recv() => Ok(()),
        done = replay(bus, world, what, &mut out, &seen) => done,
    };
    if let Some(progress) = progress {
        progress.stop();
    }
    match done {
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            Ok(ExitCode::SUCCESS)
        }
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

/// Replays to `out`, counting in `seen`.
pub(crate) async fn replay(
    bus: &Bus,
    world: &World,
    what: &Replay,
    out: &mut impl Write,
    seen: &AtomicU64,
) -> Result<()> {
    let info = bus.stream_info(STREAM).await?;
    let to = if what.follow { u64::MAX } else { info.last_sequence };
    let mut lines = Vec::with_capacity(1 << 16);
    head(what.format, &mut lines)?;
    out.write_all(&lines)?;
    let mut replay = bus.replay(STREAM, what.subject.as_deref(), what.start(world)).await?;
    while what.follow || !replay.is_at_end() {
        let batch = replay.batch(BATCH, STALL).await?;
        ensure!(what.follow || !batch.is_empty(), "{STREAM} has more messages and sends none for {STALL:?}: try again");
        let last = batch.last().map_or(0, |m| m.sequence);
        lines.clear();
        for message in batch.iter().filter(|m| m.sequence <= to && what.ride.is_none_or(|ride| is_of(m, ride))) {
            line(what.format, message, &mut lines).context("a message cannot be shown")?;
        }
        seen.fetch_add(batch.len() as u64, Ordering::Relaxed);
        if !lines.is_empty() {
            out.write_all(&lines)?;
            out.flush()?;
        }
        if last >= to {
            break;
        }
    }
    Ok(out.flush()?)
}

#[derive(Deserialize)]
struct OfRide {
    ride_id: RideId,
}

/// Whether a message is about `ride`: by its header, or without one by its body.
fn is_of(message: &StoredMessage, ride: RideId) -> bool {
    match message.headers.find("ce-subject") {
        Some(id) => id.parse() == Ok(ride),
        None => serde_json::from_slice::<OfRide>(&message.payload).is_ok_and(|body| body.ride_id == ride),
    }
}

fn head(format: Format, out: &mut Vec<u8>) -> Result<()> {
    match format {
        Format::Table => writeln!(
            out,
            "{:>10}  {:<27}  {:<14}  {:<36}  {:>3}  what",
            "sequence", "stored", "subject", "ride", "ver"
        )?,
        Format::Csv => csv_record(out, COLUMNS)?,
        Format::Json => {}
    }
    Ok(())
}

fn line(format: Format, message: &StoredMessage, out: &mut Vec<u8>) -> Result<()> {
    match format {
        Format::Json => json(message, out),
        Format::Csv => csv(message, out),
        Format::Table => table(message, out),
    }
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    stored_at: String,
    subject: &'a str,
    message_id: Option<&'a str>,
    #[serde(serialize_with = "as_object")]
    headers: &'a Headers,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    /// The body byte for byte, so that hashes can be computed from it.
    Json(&'a RawValue),
    /// What is no JSON, or has a line break, which would break the lines.
    Text(Cow<'a, str>),
}

fn as_object<S: Serializer>(headers: &Headers, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.iter())
}

fn json(message: &StoredMessage, out: &mut Vec<u8>) -> Result<()> {
    let line = Line {
        sequence: message.sequence,
        stored_at: rfc3339::text(&message.stored_at),
        subject: &message.subject,
        message_id: message.headers.find(MESSAGE_ID),
        headers: &message.headers,
        data: match serde_json::from_slice(&message.payload) {
            Ok(body) if !message.payload.contains(&b'\n') => Data::Json(body),
            _ => Data::Text(String::from_utf8_lossy(&message.payload)),
        },
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.push(b'\n');
    Ok(())
}

const COLUMNS: [&str; 18] = [
    "sequence",
    "stored_at",
    "subject",
    "message_id",
    "ride_id",
    "match_id",
    "driver_id",
    "passenger_id",
    "version",
    "status",
    "occurred_at",
    "distance_m",
    "duration_s",
    "total",
    "by",
    "reason",
    "previous_hash",
    "hash",
];

fn csv(message: &StoredMessage, out: &mut Vec<u8>) -> Result<()> {
    let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap_or_default();
    csv_record(
        out,
        COLUMNS.map(|column| match column {
            "sequence" => message.sequence.to_string(),
            "stored_at" => rfc3339::text(&message.stored_at),
            "subject" => message.subject.clone(),
            "message_id" => message.headers.find(MESSAGE_ID).unwrap_or_default().to_owned(),
            "total" => plain(body.pointer("/fare/total/amount").or_else(|| body.pointer("/fee/amount"))),
            field => plain(body.get(field)),
        }),
    )
}

fn csv_record(out: &mut Vec<u8>, fields: [impl AsRef<[u8]>; 18]) -> Result<()> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out);
    writer.write_record(fields)?;
    Ok(writer.flush()?)
}

fn plain(value: Option<&serde_json::Value>) -> String {
    match value {
        None | Some(serde_json::Value::Null) => String::new(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn table(message: &StoredMessage, out: &mut Vec<u8>) -> Result<()> {
    let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap_or_default();
    let text = |field: &str| plain(body.get(field));
    let money = |path: &str| {
        let money = body.pointer(path).and_then(|money| serde_json::from_value::<Money>(money.clone()).ok());
        money.map(|money| money.to_string()).unwrap_or_default()
    };
    let what = match message.subject.parse() {
        _ if body.is_null() => "not readable".to_owned(),
        Ok(Subject::RideCompleted) => format!(
            "{} m in {} s, {}",
            body["distance_m"].as_f64().unwrap_or_default().round(),
            body["duration_s"].as_f64().unwrap_or_default().round(),
            money("/fare/total")
        ),
        Ok(Subject::RideCancelled) => {
            format!("by {}, {}: {}", text("by"), money("/fee"), text("reason"))
        }
        _ => format!("driver {} passenger {}", text("driver_id"), text("passenger_id")),
    };
    // No user's text may move the terminal's cursor.
    let what: String = what.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    let (at, ride) = (rfc3339::text(&message.stored_at), text("ride_id"));
    let (sequence, subject, version) = (message.sequence, &message.subject, text("version"));
    writeln!(out, "{sequence:>10}  {at:<27}  {subject:<14}  {ride:<36}  {version:>3}  {what}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(body: &str) -> StoredMessage {
        let mut headers = Headers::default();
        headers.set(MESSAGE_ID, "ride.cancelled-1-2");
        headers.set("ce-subject", "0190b7a0-0000-7000-8000-000000000001");
        let stored_at = DateTime::from_timestamp(1_790_000_000, 5_000).unwrap();
        let subject = "ride.cancelled".to_owned();
        StoredMessage { subject, headers, payload: body.to_owned().into(), sequence: 7, stored_at }
    }

    fn shown(format: Format, body: &str) -> String {
        let mut out = Vec::new();
        line(format, &stored(body), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    const BODY: &str = r#"{"ride_id":"r","version":2,"reason":"a \"long, long\"\u001b[2Jlunch","fee":{"amount":300,"currency":"USD"}, "x":1.50}"#;

    #[test]
    fn a_json_line_has_the_body_byte_for_byte_or_as_text() {
        let line = shown(Format::Json, BODY);
        assert_eq!(
            line,
            format!(
                "{{\"sequence\":7,\"stored_at\":\"2026-09-21T14:13:20.000005Z\",\"subject\":\"ride.cancelled\",\
                 \"message_id\":\"ride.cancelled-1-2\",\"headers\":{{\"Nats-Msg-Id\":\"ride.cancelled-1-2\",\
                 \"ce-subject\":\"0190b7a0-0000-7000-8000-000000000001\"}},\"data\":{BODY}}}\n"
            )
        );
        for broken in ["{\"a\": ", "", "{\n}", "\u{0}"] {
            let line = shown(Format::Json, broken);
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(read["data"], broken);
        }
    }

    #[test]
    fn csv_and_table_stand_any_words() {
        let line = shown(Format::Csv, BODY);
        assert!(line.starts_with(
            "7,2026-09-21T14:13:20.000005Z,ride.cancelled,ride.cancelled-1-2,r,,,,2,,,,,300,,\"a \"\"long"
        ));
        assert!(line.ends_with("lunch\",,\r\n"), "{line}");
        let line = shown(Format::Table, BODY);
        assert!(line.contains("3.00 USD: a \"long, long\"\u{fffd}[2Jlunch"), "{line}");
        assert!(shown(Format::Table, "no").contains("not readable"));
    }

    #[test]
    fn where_to_begin_and_what_to_read_is_checked() {
        assert_eq!(since("15m"), Ok(Since::Ago(chrono::Duration::minutes(15))));
        assert_eq!(since("2026-09-21T14:13:20+02:00"), Ok(Since::At("2026-09-21T12:13:20Z".parse().unwrap())));
        for bad in ["", "m", "-5m", "5", "5q", "yesterday", "99999999999999999d", "é"] {
            assert!(since(bad).unwrap_err().contains("2026-11-21T08:00:00Z"), "{bad}");
        }
        for (text, good) in
            [("ride.completed", true), ("ride.*", true), (">", true), ("match.found", false), ("ride", false)]
        {
            assert_eq!(subject(text).is_ok(), good, "{text}");
        }
        let ride = "0190b7a0-0000-7000-8000-000000000001".parse().unwrap();
        let mut bare = stored(r#"{"ride_id": "0190b7a0-0000-7000-8000-000000000001"}"#);
        assert!(is_of(&bare, ride));
        bare.headers = Headers::default();
        assert!(is_of(&bare, ride) && !is_of(&stored("{}"), "0190b7a0-0000-7000-8000-000000000002".parse().unwrap()));
    }
}
