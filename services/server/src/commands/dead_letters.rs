//! `rideshare dead-letters`: dead letters listed, shown, requeued to the consumer that failed them, or removed. It reads
//! DEAD_LETTER_STREAM without a durable consumer, and handles no message itself: the service does, when it is requeued.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand, ValueEnum};
use platform::World;
use platform::dead_letters::{self, DeadLetter, Requeued};
use serde::Serialize;
use serde_json::Value;
use streams::topology::{DEAD_LETTER_STREAM, Topology};
use streams::{Bus, BusError};
use tokio::time::timeout;

use crate::app;
use crate::settings::{QueueType, Settings};

/// The wait for a server: a person waits for the answer.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// Characters of a reason that a table shows.
const REASON_MAX: usize = 80;

#[derive(Debug, Subcommand)]
pub enum DeadLettersAction {
    /// List them, oldest first.
    List(Filter),
    /// Show one with its headers and its body.
    Show {
        /// Its sequence, as `list` shows it.
        #[arg(value_name = "SEQUENCE", required_unless_present = "sequence")]
        number: Option<u64>,
        /// The same.
        #[arg(long, conflicts_with = "number")]
        sequence: Option<u64>,
        /// For people or for machines.
        #[arg(long, default_value = "table")]
        format: Format,
    },
    /// Give each to the consumer that failed it, and to no other; once it is handled, its letter goes. Status 1 if one fails.
    Requeue(Selection),
    /// Remove them for good.
    Remove(Selection),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For machines: JSON.
    Json,
}

/// Which letters; all conditions hold together.
#[derive(Debug, Clone, Args)]
pub struct Filter {
    /// Those with these sequences in DEAD_LETTER_STREAM.
    #[arg(value_name = "SEQUENCE")]
    pub numbers: Vec<u64>,
    /// The same, with commas.
    #[arg(long = "sequence", value_name = "SEQUENCE", value_delimiter = ',')]
    pub sequences: Vec<u64>,
    /// Those of this consumer, as in match_accepted_rides.
    #[arg(long)]
    pub consumer: Option<String>,
    /// Those stored longer ago than this: 90s, 15m, 2h, 3d.
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub older_than: Option<Duration>,
    /// Those stored less long ago than this.
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub younger_than: Option<Duration>,
    /// For people or for machines.
    #[arg(long, default_value = "table")]
    pub format: Format,
}

/// A filter for what changes something: it must say `--all` if it means all.
#[derive(Debug, Clone, Args)]
pub struct Selection {
    #[command(flatten)]
    pub filter: Filter,
    /// Every letter there is.
    #[arg(long)]
    pub all: bool,
}

fn age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("`{text}` is no age, as 15m or 2h 30m: {error}"))
}

impl Filter {
    fn sequences(&self) -> impl Iterator<Item = u64> {
        self.numbers.iter().chain(&self.sequences).copied()
    }

    fn matches_all(&self) -> bool {
        self.sequences().next().is_none()
            && self.consumer.is_none()
            && self.older_than.is_none()
            && self.younger_than.is_none()
    }

    fn matches(&self, letter: &DeadLetter, now: DateTime<Utc>) -> bool {
        let age = (now - letter.stored_at).to_std().unwrap_or_default();
        let numbered = self.sequences().next().is_none() || self.sequences().any(|s| s == letter.sequence);
        numbered
            && self.consumer.as_ref().is_none_or(|c| *c == letter.consumer)
            && self.older_than.is_none_or(|limit| age > limit)
            && self.younger_than.is_none_or(|limit| age < limit)
    }
}

/// Does what the command line says.
///
/// # Errors
/// A sentence for the person who typed it.
pub async fn run(settings: &Settings, action: &DeadLettersAction) -> Result<ExitCode> {
    if let DeadLettersAction::Requeue(selection) | DeadLettersAction::Remove(selection) = action {
        ensure!(
            selection.all == selection.filter.matches_all(),
            "say which: sequences, --consumer, --older-than, --younger-than; or --all, and nothing else"
        );
    }
    let bus = connect(settings).await?;
    let mut out = std::io::stdout().lock();
    match action {
        DeadLettersAction::List(filter) => {
            let letters = find(&bus, filter).await?;
            list(&mut out, &letters, filter.format)?;
            Ok(ExitCode::SUCCESS)
        }
        DeadLettersAction::Show { number, sequence, format } => {
            let sequence = number.or(*sequence).context("say which: a sequence, as `dead-letters list` shows it")?;
            let letter = match bus.get_message(DEAD_LETTER_STREAM, sequence).await {
                Ok(stored) => DeadLetter::parse(stored),
                Err(BusError::NotFound(_)) => bail!("there is no dead letter {sequence}"),
                Err(error) => return Err(error.into()),
            };
            show(&mut out, &letter, *format)?;
            Ok(ExitCode::SUCCESS)
        }
        DeadLettersAction::Requeue(Selection { filter, .. }) => {
            let mut results = Vec::new();
            for letter in find(&bus, filter).await? {
                results.push(match dead_letters::requeue(&bus, &letter).await {
                    Ok(Requeued::Done) => LetterResult::of(&letter, Outcome::Requeued),
                    Ok(Requeued::DoneBefore) => LetterResult::of(&letter, Outcome::HandledBefore),
                    Err(error) => LetterResult::failed(&letter, &error),
                });
            }
            report(&mut out, &results, filter.format)
        }
        DeadLettersAction::Remove(Selection { filter, .. }) => {
            let mut results = Vec::new();
            for letter in find(&bus, filter).await? {
                results.push(match dead_letters::remove(&bus, &letter).await {
                    // NotFound: somebody else has removed it meanwhile.
                    Ok(()) | Err(BusError::NotFound(_)) => LetterResult::of(&letter, Outcome::Removed),
                    Err(error) => LetterResult::failed(&letter, &error),
                });
            }
            report(&mut out, &results, filter.format)
        }
    }
}

async fn connect(settings: &Settings) -> Result<Bus> {
    // A memory bus lives in its process, so the letters are on a NATS server whatever QUEUE_TYPE says.
    let settings = Settings { queue_type: QueueType::Nats, ..settings.clone() };
    timeout(CONNECT_WAIT, app::bus(&settings, &World::real(), "dead-letters"))
        .await
        .unwrap_or_else(|_| bail!("NATS_URL: no server answers there in {CONNECT_WAIT:?}"))
}

/// The letters that match, without their bodies, which may be large.
async fn find(bus: &Bus, filter: &Filter) -> Result<Vec<DeadLetter>> {
    let now = World::real().now();
    let mut letters = Vec::new();
    let read = dead_letters::for_each(bus, |letter| {
        if filter.matches(&letter, now) {
            letters.push(DeadLetter { payload: bytes::Bytes::new(), ..letter });
        }
    });
    match read.await {
        Err(BusError::NotFound(_)) => bail!("this server has no {DEAD_LETTER_STREAM}: the platform has not run there"),
        read => read?,
    }
    let missing: Vec<String> =
        filter.sequences().filter(|s| letters.iter().all(|l| l.sequence != *s)).map(|s| s.to_string()).collect();
    ensure!(missing.is_empty(), "there is no such dead letter: {}", missing.join(", "));
    if let Some(consumer) = filter.consumer.as_ref().filter(|_| letters.is_empty()) {
        let known = Topology::rideshare().consumers;
        ensure!(
            known.iter().any(|c| c.durable == *consumer),
            "there is no consumer `{consumer}`; consumers are named as in match_accepted_rides (see `rideshare streams show`)"
        );
    }
    Ok(letters)
}

/// What is shown of a letter, in the order of the names.
#[derive(Serialize)]
struct Summary<'a> {
    consumer: &'a str,
    deliveries: u64,
    failed_at: &'a str,
    message_id: &'a str,
    reason: &'a str,
    sequence: u64,
    stream: &'a str,
    stream_sequence: u64,
    subject: &'a str,
    time: String,
}

impl<'a> Summary<'a> {
    fn of(letter: &'a DeadLetter) -> Self {
        Self {
            consumer: &letter.consumer,
            deliveries: letter.deliveries,
            failed_at: &letter.failed_at,
            message_id: &letter.message_id,
            reason: &letter.reason,
            sequence: letter.sequence,
            stream: &letter.stream,
            stream_sequence: letter.stream_sequence,
            subject: &letter.subject,
            time: letter.stored_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        }
    }
}

/// A JSON array, an element a line.
fn write_array(out: &mut impl Write, elements: &[impl Serialize]) -> Result<()> {
    let lines = elements.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    writeln!(out, "[{}{}]", if lines.is_empty() { "" } else { "\n" }, lines.join(",\n"))?;
    Ok(())
}

fn list(out: &mut impl Write, letters: &[DeadLetter], format: Format) -> Result<()> {
    let letters: Vec<Summary<'_>> = letters.iter().map(Summary::of).collect();
    if format == Format::Json {
        return write_array(out, &letters);
    }
    if letters.is_empty() {
        writeln!(out, "no dead letters")?;
        return Ok(());
    }
    writeln!(
        out,
        "{:>8}  {:<24}  {:<28}  {:<26}  {:>5}  {:<72}  reason",
        "sequence", "time", "consumer", "from", "tries", "message id"
    )?;
    for Summary { consumer, deliveries, message_id, reason, sequence, stream, stream_sequence, time, .. } in letters {
        let from = format!("{stream} {stream_sequence}");
        let reason: String = reason.chars().take(REASON_MAX).collect();
        writeln!(
            out,
            "{sequence:>8}  {time:<24}  {consumer:<28}  {from:<26}  {deliveries:>5}  {message_id:<72}  {reason}"
        )?;
    }
    Ok(())
}

fn show(out: &mut impl Write, letter: &DeadLetter, format: Format) -> Result<()> {
    #[derive(Serialize)]
    struct Whole<'a> {
        #[serde(flatten)]
        summary: Summary<'a>,
        headers: Vec<(&'a str, &'a str)>,
        body: Value,
    }
    let body = serde_json::from_slice::<Value>(&letter.payload)
        .unwrap_or_else(|_| String::from_utf8_lossy(&letter.payload).into_owned().into());
    let whole = Whole { summary: Summary::of(letter), headers: letter.headers.iter().collect(), body };
    if format == Format::Json {
        writeln!(out, "{}", serde_json::to_string_pretty(&whole)?)?;
        return Ok(());
    }
    let text = |value: &Value| value.as_str().map_or_else(|| format!("{value:#}"), str::to_owned);
    if let Value::Object(fields) = serde_json::to_value(&whole.summary)? {
        for (name, value) in &fields {
            writeln!(out, "{name:<16} {}", text(value))?;
        }
    }
    for (name, value) in &whole.headers {
        writeln!(out, "header           {name}: {value}")?;
    }
    writeln!(out, "\n{}", text(&whole.body))?;
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Requeued,
    HandledBefore,
    Removed,
    Failed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requeued => "requeued",
            Self::HandledBefore => "handled before",
            Self::Removed => "removed",
            Self::Failed => "failed",
        })
    }
}

/// What a command has done with one letter.
#[derive(Serialize)]
struct LetterResult {
    consumer: String,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    sequence: u64,
}

impl LetterResult {
    fn of(letter: &DeadLetter, outcome: Outcome) -> Self {
        Self { consumer: letter.consumer.clone(), outcome, reason: None, sequence: letter.sequence }
    }

    fn failed(letter: &DeadLetter, error: &impl fmt::Display) -> Self {
        Self { reason: Some(error.to_string()), ..Self::of(letter, Outcome::Failed) }
    }
}

fn report(out: &mut impl Write, results: &[LetterResult], format: Format) -> Result<ExitCode> {
    let failed = results.iter().filter(|result| result.outcome == Outcome::Failed).count();
    if format == Format::Json {
        write_array(out, results)?;
    } else {
        for LetterResult { consumer, outcome, reason, sequence } in results {
            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            writeln!(out, "{sequence:>8}  {consumer:<28}  {outcome}{reason}")?;
        }
        writeln!(out, "{} of {} done", results.len() - failed, results.len())?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use platform::dead_letters::DeadLetter;
    use streams::Headers;

    use super::*;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        filter: Filter,
    }

    #[test]
    fn ages_have_units() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("15m", 900), ("2h", 7_200), ("3d", 259_200), ("1h 5m", 3_900)]
        {
            assert_eq!(age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "5", "-5m", "5q", "99999999999999999999d", "5é", "soon"] {
            assert!(age(text).is_err_and(|e| e.contains("is no age")), "{text}");
        }
    }

    fn letter(sequence: u64, consumer: &str, minutes_old: i64, now: DateTime<Utc>) -> DeadLetter {
        DeadLetter {
            sequence,
            stored_at: now - chrono::Duration::minutes(minutes_old),
            id: String::new(),
            consumer: consumer.to_owned(),
            stream: "MATCH_STREAM".to_owned(),
            stream_sequence: 7,
            subject: "match.accepted".to_owned(),
            message_id: "match.accepted-x-1".to_owned(),
            deliveries: 3,
            reason: "why".to_owned(),
            failed_at: String::new(),
            headers: Headers::default(),
            payload: bytes::Bytes::new(),
        }
    }

    #[test]
    fn a_letter_must_meet_every_condition_of_the_filter() {
        let now: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        let letters = [letter(1, "a", 100, now), letter(2, "b", 50, now), letter(3, "a", 10, now)];
        let which = |text: &str| {
            let words = std::iter::once("list").chain(text.split_whitespace());
            let Alone { filter } = clap::Parser::try_parse_from(words).unwrap();
            let matching = letters.iter().filter(|l| filter.matches(l, now)).map(|l| l.sequence);
            (matching.collect::<Vec<_>>(), filter.matches_all())
        };
        assert_eq!(which(""), (vec![1, 2, 3], true));
        assert_eq!(which("--consumer a"), (vec![1, 3], false));
        assert_eq!(which("3 1"), (vec![1, 3], false));
        assert_eq!(which("--sequence 2,3"), (vec![2, 3], false));
        assert_eq!(which("--older-than 30m"), (vec![1, 2], false));
        assert_eq!(which("--older-than 50m"), (vec![1], false));
        assert_eq!(which("--younger-than 1h"), (vec![2, 3], false));
        assert_eq!(which("--consumer a --older-than 5m --younger-than 20m"), (vec![3], false));
        assert_eq!(which("--consumer c"), (vec![], false));
    }

    #[test]
    fn lists_are_tables_or_json() {
        let now: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        let letters = [letter(1, "a", 0, now), letter(2, "b", 0, now)];
        let text = |letters: &[DeadLetter], format| {
            let mut out = Vec::new();
            list(&mut out, letters, format).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(&[], Format::Json), "[]\n");
        assert_eq!(text(&[], Format::Table), "no dead letters\n");
        let json: Vec<Value> = serde_json::from_str(&text(&letters, Format::Json)).unwrap();
        assert_eq!(json.iter().map(|l| &l["sequence"]).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(json[0]["time"], "2026-01-01T00:00:00.000Z");
        assert_eq!(text(&letters, Format::Json).lines().count(), 3, "one a line");
        assert_eq!(text(&letters, Format::Table).lines().count(), 3, "a head and one a line");
    }
}
