//! `rideshare dispatch evaluate`: each policy in turn, over the same demand and with the same fleet (`matching::evaluate`).

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use matching::Policy;
use matching::evaluate::{Outcome, Spread, Trial, evaluate};
use platform::World;
use serde_json::{Value, json};

use super::requests;
use crate::settings::Settings;

/// What is tried, and on what.
#[derive(Debug, Clone, Args)]
pub struct Evaluate {
    /// Trips: a CSV file with the columns pickup_time, pickup_lat, pickup_lng, dropoff_lat and dropoff_lng, and any others.
    #[arg(long, value_name = "FILE.csv")]
    pub requests: PathBuf,
    /// Drivers.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub fleet: u32,
    /// Take pickup times modulo this many seconds, so that a sample of a month is a busy hour.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    pub fold_s: Option<u32>,
    /// What to try: batched, first-come, shortest-pair; with commas.
    #[arg(long, value_name = "P", value_delimiter = ',', default_value = "batched,first-come,shortest-pair")]
    pub policy: Vec<Policy>,
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
    /// Draws the places where drivers begin.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// For people or for machines.
    #[arg(long, default_value = "table")]
    pub format: Format,
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
    for (name, value) in [("--radius-m", radius_m), ("--speed-mps", what.speed_mps)] {
        ensure!(value.is_finite() && value > 0.0, "{name} must be a number above 0");
    }
    let radius_max_m = what.radius_max_m.or(settings.match_radius_max_m).unwrap_or(radius_m);
    ensure!(
        radius_max_m.is_finite() && radius_max_m >= radius_m,
        "--radius-max-m must be at least the radius, {radius_m}"
    );
    let trips = requests::read(&what.requests, what.fold_s)?;
    let trial = Trial {
        drivers: what.fleet,
        radius_m,
        radius_max_m,
        speed_mps: what.speed_mps,
        patience_s: what.patience_s,
        window: chrono::Duration::milliseconds(settings.match_window_ms.into()),
        seed: what.seed,
    };
    let world = World::real();
    let mut results = Vec::new();
    if what.format == Format::Table {
        println!("{HEAD}");
    }
    for policy in &what.policy {
        let began_at = world.now();
        let outcome = evaluate(&trips, &trial, *policy);
        let seconds = (world.now() - began_at).as_seconds_f64().max(1e-6);
        let decisions_per_s = outcome.matched as f64 / seconds;
        match what.format {
            Format::Table => println!("{}", line(&outcome, decisions_per_s)),
            Format::Json => results.push(object(&outcome, decisions_per_s)),
        }
    }
    if what.format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&results)?);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) const HEAD: &str = "policy         requests matched   rate    ETA s    p95   wait s    p95  total s    p95 longest s  empty km   gini  decisions/s";

/// Under [`HEAD`].
pub(super) fn line(o: &Outcome, decisions_per_s: f64) -> String {
    let Outcome { pickup_eta_s: eta, match_wait_s: wait, total_wait_s: total, .. } = o;
    format!(
        "{:<14} {:>8} {:>7} {:>6.4} {:>8.1} {:>6.1} {:>8.1} {:>6.1} {:>8.1} {:>6.1} {:>9.1} {:>9.1} {:>6.3} {:>12.0}",
        o.policy.as_str(),
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
        "policy": o.policy.as_str(),
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
