//! `rideshare dead-letters`: what failed for good, looked at, given back to the consumer that failed it, or removed. It reads
//! DEAD_LETTER_STREAM without a durable consumer, and handles nothing itself: requeued messages are handled by the service.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand, ValueEnum};
use platform::World;
use platform::dead_letters::{self, Letter, Requeued};
use serde_json::{Map, Value, json};
use streams::topology::{DEAD_LETTER_STREAM, Topology};
use streams::{Bus, BusError};
use tokio::time::timeout;

use crate::app;
use crate::settings::{QueueType, Settings};

/// The wait for a server: somebody sits in front of it.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// What a table shows of a reason.
const REASON_MAX: usize = 80;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum LettersAction {
    /// List them, oldest first.
    List(Which),
    /// Show one with its headers and its body.
    Show {
        /// Its sequence, as `list` tells it.
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
    Requeue(Chosen),
    /// Remove them for good.
    Remove(Chosen),
}

/// How a command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For machines: JSON.
    Json,
}

/// Which letters; all conditions hold together.
#[derive(Debug, Clone, Args)]
pub struct Which {
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

/// Which letters, for what changes something: not everything by mistake.
#[derive(Debug, Clone, Args)]
pub struct Chosen {
    /// The conditions.
    #[command(flatten)]
    pub which: Which,
    /// Every letter there is.
    #[arg(long)]
    pub all: bool,
}

fn age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no age: a whole number and s, m, h or d, as in 15m");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(count) * seconds))
}

impl Which {
    fn sequences(&self) -> impl Iterator<Item = u64> {
        self.numbers.iter().chain(&self.sequences).copied()
    }

    fn is_everything(&self) -> bool {
        self.sequences().next().is_none()
            && self.consumer.is_none()
            && self.older_than.is_none()
            && self.younger_than.is_none()
    }

    fn covers(&self, letter: &Letter, now: DateTime<Utc>) -> bool {
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
pub async fn run(settings: &Settings, action: &LettersAction) -> Result<ExitCode> {
    if let LettersAction::Requeue(chosen) | LettersAction::Remove(chosen) = action {
        ensure!(
            chosen.all == chosen.which.is_everything(),
            "say which: sequences, --consumer, --older-than, --younger-than; or --all, and nothing else"
        );
    }
    let bus = connect(settings).await?;
    let mut out = std::io::stdout().lock();
    match action {
        LettersAction::List(which) => {
            let letters = found(&bus, which).await?;
            list(&mut out, &letters, which.format)?;
            Ok(ExitCode::SUCCESS)
        }
        LettersAction::Show { number, sequence, format } => {
            let sequence = number.or(*sequence).context("say which: a sequence, as `dead-letters list` tells it")?;
            let letter = match bus.get_message(DEAD_LETTER_STREAM, sequence).await {
                Ok(stored) => Letter::read(stored),
                Err(BusError::NotFound(_)) => bail!("there is no dead letter {sequence}"),
                Err(error) => return Err(error.into()),
            };
            show(&mut out, &letter, *format)?;
            Ok(ExitCode::SUCCESS)
        }
        LettersAction::Requeue(Chosen { which, .. }) => {
            let mut done = Vec::new();
            for letter in found(&bus, which).await? {
                let (outcome, why) = match dead_letters::requeue(&bus, &letter).await {
                    Ok(Requeued::Done) => ("requeued", String::new()),
                    Ok(Requeued::DoneBefore) => ("handled_before", String::new()),
                    Err(error) => ("failed", error.to_string()),
                };
                done.push(Outcome { letter, outcome, why });
            }
            tell(&mut out, &done, which.format)
        }
        LettersAction::Remove(Chosen { which, .. }) => {
            let mut done = Vec::new();
            for letter in found(&bus, which).await? {
                let (outcome, why) = match dead_letters::remove(&bus, &letter).await {
                    // Somebody else was faster.
                    Ok(()) | Err(BusError::NotFound(_)) => ("removed", String::new()),
                    Err(error) => ("failed", error.to_string()),
                };
                done.push(Outcome { letter, outcome, why });
            }
            tell(&mut out, &done, which.format)
        }
    }
}

async fn connect(settings: &Settings) -> Result<Bus> {
    // A memory bus lives in its process: whatever this one would run on, the letters are on a server.
    let settings = Settings { queue_type: QueueType::Nats, ..settings.clone() };
    timeout(CONNECT_WAIT, app::bus(&settings, &World::real(), "dead-letters"))
        .await
        .unwrap_or_else(|_| bail!("NATS_URL: no server answers at {} in {CONNECT_WAIT:?}", settings.nats_url.join(",")))
}

/// The letters that `which` covers, without their bodies, which may be many.
async fn found(bus: &Bus, which: &Which) -> Result<Vec<Letter>> {
    let now = World::real().now();
    let mut letters = Vec::new();
    let read = dead_letters::for_each(bus, |letter| {
        if which.covers(&letter, now) {
            letters.push(Letter { payload: bytes::Bytes::new(), ..letter });
        }
    });
    match read.await {
        Err(BusError::NotFound(_)) => bail!("this server has no {DEAD_LETTER_STREAM}: the platform has not run there"),
        read => read?,
    }
    let missing: Vec<String> =
        which.sequences().filter(|s| letters.iter().all(|l| l.sequence != *s)).map(|s| s.to_string()).collect();
    ensure!(missing.is_empty(), "there is no such dead letter: {}", missing.join(", "));
    if let Some(consumer) = which.consumer.as_ref().filter(|_| letters.is_empty()) {
        let known = Topology::rideshare().consumers;
        ensure!(
            known.iter().any(|c| c.durable == *consumer),
            "there is no consumer `{consumer}`; consumers are named as in match_accepted_rides (see `rideshare streams show`)"
        );
    }
    Ok(letters)
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn fields(letter: &Letter) -> Map<String, Value> {
    let Value::Object(fields) = json!({
        "sequence": letter.sequence,
        "time": time(letter.stored_at),
        "consumer": letter.consumer,
        "stream": letter.stream,
        "stream_sequence": letter.stream_sequence,
        "subject": letter.subject,
        "message_id": letter.message_id,
        "deliveries": letter.deliveries,
        "reason": letter.reason,
        "failed_at": letter.failed_at,
    }) else {
        return Map::new();
    };
    fields
}

/// A JSON array, an element a line.
fn array(out: &mut impl Write, elements: impl Iterator<Item = Value>) -> Result<()> {
    let lines: Vec<String> = elements.map(|element| element.to_string()).collect();
    writeln!(out, "[{}{}]", if lines.is_empty() { "" } else { "\n" }, lines.join(",\n"))?;
    Ok(())
}

fn list(out: &mut impl Write, letters: &[Letter], format: Format) -> Result<()> {
    if format == Format::Json {
        return array(out, letters.iter().map(|letter| fields(letter).into()));
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
    for letter in letters {
        let from = format!("{} {}", letter.stream, letter.stream_sequence);
        let reason: String = letter.reason.chars().take(REASON_MAX).collect();
        writeln!(
            out,
            "{:>8}  {:<24}  {:<28}  {from:<26}  {:>5}  {:<72}  {reason}",
            letter.sequence,
            time(letter.stored_at),
            letter.consumer,
            letter.deliveries,
            letter.message_id
        )?;
    }
    Ok(())
}

fn show(out: &mut impl Write, letter: &Letter, format: Format) -> Result<()> {
    let mut fields = fields(letter);
    let body = serde_json::from_slice::<Value>(&letter.payload)
        .unwrap_or_else(|_| String::from_utf8_lossy(&letter.payload).into_owned().into());
    let headers: Vec<Value> = letter.headers.iter().map(|(name, value)| json!([name, value])).collect();
    if format == Format::Json {
        fields.insert("headers".to_owned(), headers.into());
        fields.insert("body".to_owned(), body);
        writeln!(out, "{:#}", Value::Object(fields))?;
        return Ok(());
    }
    for (name, value) in &fields {
        writeln!(out, "{name:<16} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))?;
    }
    for (name, value) in letter.headers.iter() {
        writeln!(out, "header           {name}: {value}")?;
    }
    writeln!(out, "\n{}", body.as_str().map_or_else(|| format!("{body:#}"), str::to_owned))?;
    Ok(())
}

struct Outcome {
    letter: Letter,
    outcome: &'static str,
    why: String,
}

fn tell(out: &mut impl Write, done: &[Outcome], format: Format) -> Result<ExitCode> {
    let failed = done.iter().filter(|o| o.outcome == "failed").count();
    if format == Format::Json {
        array(
            out,
            done.iter().map(|Outcome { letter, outcome, why }| {
                let mut said = json!({"sequence": letter.sequence, "consumer": letter.consumer, "outcome": outcome});
                if !why.is_empty() {
                    said["reason"] = why.as_str().into();
                }
                said
            }),
        )?;
    } else {
        for Outcome { letter, outcome, why } in done {
            let colon = if why.is_empty() { "" } else { ": " };
            writeln!(
                out,
                "{:>8}  {:<28}  {}{colon}{why}",
                letter.sequence,
                letter.consumer,
                outcome.replace('_', " ")
            )?;
        }
        writeln!(out, "{} of {} done", done.len() - failed, done.len())?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use platform::dead_letters::Letter;
    use streams::Headers;

    use super::*;

    #[test]
    fn ages_have_units() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("15m", 900), ("2h", 7_200), ("3d", 259_200)] {
            assert_eq!(age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "5", "-5m", "1.5h", "5w", "5 m", "99999999999d", "5é"] {
            assert!(age(text).is_err_and(|e| e.contains("is no age")), "{text}");
        }
    }

    fn letter(sequence: u64, consumer: &str, minutes_old: i64, now: DateTime<Utc>) -> Letter {
        Letter {
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
    fn letters_are_chosen_by_every_condition() {
        let now: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        let letters = [letter(1, "a", 100, now), letter(2, "b", 50, now), letter(3, "a", 10, now)];
        let which = |text: &str| {
            let words = ["rideshare", "dead-letters", "list"].into_iter().chain(text.split_whitespace());
            let cli = <crate::settings::Cli as clap::Parser>::try_parse_from(words).unwrap();
            let Some(crate::settings::Command::DeadLetters { action: LettersAction::List(which) }) = cli.command else {
                panic!("{text}");
            };
            let covered = letters.iter().filter(|l| which.covers(l, now)).map(|l| l.sequence);
            (covered.collect::<Vec<_>>(), which.is_everything())
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
        let text = |letters: &[Letter], format| {
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
