//! `rideshare dispatch evaluate`: each policy in turn, over the same demand and with the same fleet (`matching::evaluate`), and what could
//! have been reached at best (`matching::optimum`).

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use matching::Policy;
use matching::evaluate::{Answers, Outcome, Spread, Trial, Trip, evaluate};
use matching::optimum::{self, optimum};
use platform::World;
use serde_json::{Value, json};
use simulator::{Request, Usable, read_requests};
use streams::Position;

use crate::output::{has_reader, noteln, outln};
use crate::settings::Settings;

/// Slower or faster is no driver.
const SPEED_MPS: RangeInclusive<f64> = 0.1..=1_000.0;

/// What is tried, and on what.
#[derive(Debug, Clone, Args)]
pub struct Evaluate {
    /// Trips: a CSV file with the columns pickup_time, pickup_lat, pickup_lng, dropoff_lat and dropoff_lng, and any others. Times are RFC 3339 or
    /// YYYY-MM-DD HH:MM:SS. Rows that are no trips, such as without a place or at 0, 0, are left out; stderr has their number and the first reasons.
    #[arg(long, value_name = "FILE.csv")]
    pub requests: PathBuf,
    /// Drivers.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub fleet: u32,
    /// Take pickup times modulo this many seconds, so that a sample of a month is a busy hour.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    pub fold_s: Option<u32>,
    /// What to try: batched, first-come, shortest-pair; with commas. And optimum, of at most 12 trips: all is known beforehand, the most
    /// passengers are matched, and of these ways the one with the least total wait is taken (no declines, no misses)
    /// [default: batched,first-come,shortest-pair, and optimum if the trips are few enough].
    #[arg(long, value_name = "P", value_delimiter = ',')]
    pub policy: Vec<Tried>,
    /// Metres from a pickup within which drivers are sought [default: MATCH_RADIUS_M].
    #[arg(long)]
    pub radius_m: Option<f64>,
    /// The same once two thirds of a passenger's patience are over [default: MATCH_RADIUS_MAX_M, else the radius].
    #[arg(long)]
    pub radius_max_m: Option<f64>,
    /// How fast drivers drive the great circle times 1.3, in metres per second.
    #[arg(long, default_value_t = 7.0)]
    pub speed_mps: f64,
    /// Seconds after which a passenger without a driver leaves.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub patience_s: u32,
    /// This part of the offers is declined, after 3 s: 0 to 1.
    #[arg(long, value_name = "PART", default_value_t = 0.0)]
    pub decline_rate: f64,
    /// This part of the offers is not answered, and expires: 0 to 1, together with --decline-rate.
    #[arg(long, value_name = "PART", default_value_t = 0.0)]
    pub miss_rate: f64,
    /// Draws the places where drivers begin, and their answers.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// For people or for machines.
    #[arg(long, default_value = "table")]
    pub format: Format,
}

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    Policy(Policy),
    Optimum,
}

impl FromStr for Tried {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == optimum::NAME {
            return Ok(Self::Optimum);
        }
        text.parse().map(Self::Policy).map_err(|error: String| format!("{error}, {}", optimum::NAME))
    }
}

/// How to show the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

pub(super) fn run(settings: &Settings, what: &Evaluate) -> Result<ExitCode> {
    let radius_m = what.radius_m.unwrap_or(settings.match_radius_m);
    ensure!(radius_m.is_finite() && radius_m > 0.0, "--radius-m must be a number above 0");
    ensure!(
        SPEED_MPS.contains(&what.speed_mps),
        "--speed-mps must be from {} to {}",
        SPEED_MPS.start(),
        SPEED_MPS.end()
    );
    let answers = Answers { decline_rate: what.decline_rate, miss_rate: what.miss_rate };
    let is_part = |part: f64| (0.0..=1.0).contains(&part);
    ensure!(
        is_part(answers.decline_rate)
            && is_part(answers.miss_rate)
            && is_part(answers.decline_rate + answers.miss_rate),
        "--decline-rate and --miss-rate must be from 0 to 1, and so must their sum"
    );
    let radius_max_m = what.radius_max_m.or(settings.match_radius_max_m).unwrap_or(radius_m);
    ensure!(
        radius_max_m.is_finite() && radius_max_m >= radius_m,
        "--radius-max-m must be at least the radius, {radius_m}"
    );
    let trips = trips(what)?;
    let trial = Trial {
        drivers: what.fleet,
        radius_m,
        radius_max_m,
        speed_mps: what.speed_mps,
        patience_s: what.patience_s,
        window: chrono::Duration::milliseconds(settings.match_window_ms.into()),
        seed: what.seed,
        answers,
    };
    let is_small = trips.len() <= optimum::TRIPS_MAX;
    let usual = [Policy::Batched, Policy::FirstCome, Policy::ShortestPair].map(Tried::Policy);
    let tried = match &what.policy[..] {
        [] => [&usual[..], is_small.then_some(Tried::Optimum).as_slice()].concat(),
        named => named.to_vec(),
    };
    ensure!(
        is_small || !tried.contains(&Tried::Optimum),
        "--policy optimum is of at most {} trips, and these are {}",
        optimum::TRIPS_MAX,
        trips.len()
    );
    let world = World::real();
    let mut results = Vec::new();
    if what.format == Format::Table {
        outln!("{HEAD}")?;
    }
    for tried in tried {
        // Nothing else comes of it.
        if !has_reader() {
            break;
        }
        let began_at = world.now();
        let outcome = match tried {
            Tried::Policy(policy) => evaluate(&trips, &trial, policy),
            Tried::Optimum => optimum(&trips, &trial).context("there are too many trips")?,
        };
        let seconds = (world.now() - began_at).as_seconds_f64().max(1e-6);
        let decisions_per_s = outcome.matched as f64 / seconds;
        match what.format {
            Format::Table => outln!("{}", line(&outcome, decisions_per_s))?,
            Format::Json => results.push(object(&outcome, decisions_per_s)),
        }
    }
    if what.format == Format::Json {
        outln!("{}", serde_json::to_string_pretty(&results)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The demand, as the engine is asked.
fn trips(what: &Evaluate) -> Result<Vec<Trip>> {
    let usable = Usable { length_min_m: 0.0, needs_dropoff_time: false };
    let read = read_requests(&what.requests, usable).context("--requests")?;
    if read.left_out.rows > 0 {
        noteln!("{}: {}", what.requests.display(), read.left_out);
    }
    let position = |at: simulator::Position| Position { lat: at.lat, lng: at.lng };
    let trip = |request: &Request| {
        let ms = request.pickup_time.timestamp_millis();
        let requested_at_ms = what.fold_s.map_or(ms, |fold_s| ms.rem_euclid(i64::from(fold_s) * 1_000));
        Trip { requested_at_ms, pickup: position(request.pickup), dropoff: position(request.dropoff) }
    };
    Ok(read.requests.iter().map(trip).collect())
}

pub(super) const HEAD: &str = "policy         requests matched   rate    ETA s    p95   wait s    p95  total s    p95 longest s  empty km   gini  decisions/s";

/// Under [`HEAD`].
pub(super) fn line(o: &Outcome, decisions_per_s: f64) -> String {
    let Outcome { pickup_eta_s: eta, match_wait_s: wait, total_wait_s: total, .. } = o;
    format!(
        "{:<14} {:>8} {:>7} {:>6.4} {:>8.1} {:>6.1} {:>8.1} {:>6.1} {:>8.1} {:>6.1} {:>9.1} {:>9.1} {:>6.3} {:>12.0}",
        o.policy,
        o.requests,
        o.matched,
        o.match_rate,
        eta.mean,
        eta.p95,
        wait.mean,
        wait.p95,
        total.mean,
        total.p95,
        o.longest_wait_s,
        o.empty_km,
        o.gini,
        decisions_per_s
    )
}

pub(super) fn object(o: &Outcome, decisions_per_s: f64) -> Value {
    let spread = |s: &Spread| json!({"mean": s.mean, "p50": s.p50, "p95": s.p95});
    json!({
        "policy": o.policy,
        "requests": o.requests,
        "matched": o.matched,
        "match_rate": o.match_rate,
        "pickup_eta_s": spread(&o.pickup_eta_s),
        "match_wait_s": spread(&o.match_wait_s),
        "total_wait_s": spread(&o.total_wait_s),
        "longest_wait_s": o.longest_wait_s,
        "empty_km": o.empty_km,
        "gini": o.gini,
        "decisions_per_s": decisions_per_s,
    })
}
