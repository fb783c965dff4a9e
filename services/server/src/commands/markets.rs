//! `rideshare markets`: what MARKETS_FILE says, and speeds that fit trips that were driven.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use chrono_tz::Tz;
use clap::Subcommand;
use pricing::market::fit::{self, Driven, Fitted};
use pricing::market::without_mark;
use serde_json::{Value, json};
use simulator::read_requests;
use streams::Position;

use crate::settings::Settings;

#[derive(Debug, Subcommand)]
pub enum MarketsAction {
    /// Check MARKETS_FILE, and list its markets.
    Show,
    /// Fit the speeds of the estimates to trips that were driven, by hour of the day, and write the file with them to stdout.
    Fit {
        /// A CSV file of trips with the columns pickup_time and dropoff_time (RFC 3339), pickup_lat, pickup_lng, dropoff_lat and dropoff_lng.
        #[arg(long)]
        requests: PathBuf,
        /// Without MARKETS_FILE: the zone of the hours, as in Europe/Berlin. A market has its own.
        #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = zone)]
        time_zone: Tz,
    },
}

fn zone(name: &str) -> Result<Tz, String> {
    name.parse()
        .map_err(|_| format!("`{name}` is no time zone: a name of the IANA database is needed, as Europe/Berlin"))
}

/// # Errors
/// A file cannot be read, or holds a mistake.
pub fn run(settings: &Settings, action: &MarketsAction) -> Result<ExitCode> {
    match action {
        MarketsAction::Show => show(settings),
        MarketsAction::Fit { requests, time_zone } => fit(settings, requests, *time_zone),
    }
}

fn show(settings: &Settings) -> Result<ExitCode> {
    let markets = settings.markets()?;
    println!("version {}", markets.version);
    for market in markets.iter() {
        let currency = market.tariff(streams::VehicleType::Car).currency;
        println!("{:<24} {currency}  {:<24} {}", market.market_id, market.time_zone, market.name);
    }
    Ok(ExitCode::SUCCESS)
}

/// Without MARKETS_FILE it writes the speeds alone, with the zone of their hours.
fn fit(settings: &Settings, requests: &Path, time_zone: Tz) -> Result<ExitCode> {
    let markets = settings.markets()?;
    let trips = read_requests(requests, None)?;
    let position = |at: simulator::Position| Position { lat: at.lat, lng: at.lng };
    let driven: Vec<Driven> = trips
        .requests
        .iter()
        .filter_map(|request| {
            let duration_s = (request.dropoff_time? - request.pickup_time).as_seconds_f64();
            let (from, to) = (position(request.pickup), position(request.dropoff));
            Some(Driven { at: request.pickup_time, from, to, duration_s })
        })
        .collect();
    if driven.is_empty() {
        bail!("{} has no trip with a dropoff_time", requests.display());
    }
    let Some(path) = settings.markets_path() else {
        let mut world = markets.iter().next().context("there is always a market")?.clone();
        world.time_zone = time_zone;
        let fitted = fit::fit(&world, &driven).context("there are too few trips")?;
        eprintln!(
            "by the hours of {time_zone}: estimated over driven time {:.3} at 25.2 km/h, {:.3} with these speeds",
            fitted.before, fitted.after
        );
        println!("{}", json!({"time_zone": time_zone.name(), "speed_kmh": fitted.speed_kmh}));
        return Ok(ExitCode::SUCCESS);
    };
    let mut file: Value =
        serde_json::from_str(without_mark(&std::fs::read_to_string(path)?)).context("MARKETS_FILE")?;
    let features = file["features"].as_array_mut().context("MARKETS_FILE has no features")?;
    for feature in features {
        let id = feature.pointer("/properties/market_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(market) = markets.get(&id) else { continue };
        let of_market: Vec<Driven> =
            driven.iter().filter(|trip| markets.at(&trip.from) == Some(market)).copied().collect();
        let Some(Fitted { speed_kmh, trips, before, after }) = fit::fit(market, &of_market) else {
            eprintln!("{id}: too few trips; its speeds stay");
            continue;
        };
        eprintln!("{id}: {trips} trips; estimated over driven time {before:.3} before, {after:.3} with these speeds");
        feature["properties"]["speed_kmh"] = json!(speed_kmh);
    }
    println!("{}", serde_json::to_string_pretty(&file)?);
    Ok(ExitCode::SUCCESS)
}
