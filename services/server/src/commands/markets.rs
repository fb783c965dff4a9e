//! `rideshare markets`: what MARKETS_FILE says, and speeds that fit trips that were driven.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use chrono::TimeZone;
use chrono_tz::Tz;
use clap::Subcommand;
use pricing::market::Market;
use pricing::market::fit::{self, Driven, Fitted};
use pricing::market::without_mark;
use serde_json::{Value, json};
use simulator::{RIDE_MIN_M, Request, Usable, read_requests};
use streams::Position;

use crate::output::{noteln, outln};
use crate::settings::Settings;

#[derive(Debug, Subcommand)]
pub enum MarketsAction {
    /// Check MARKETS_FILE, and list its markets.
    Show,
    /// Fit the speeds of the estimates to trips that were driven, by hour of the day, and write the file with them to stdout.
    Fit {
        /// A CSV file of trips with the columns pickup_time and dropoff_time, pickup_lat, pickup_lng, dropoff_lat and dropoff_lng, and any others. Times
        /// are RFC 3339, or YYYY-MM-DD HH:MM:SS in the time zone of the market. Rows that are no trips, such as without a place or at 0, 0, are left
        /// out; stderr has their number and the first reasons.
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
    outln!("version {}", markets.version)?;
    for market in markets.iter() {
        let currency = market.tariff(streams::VehicleType::Car).currency;
        outln!("{:<24} {currency}  {:<24} {}", market.market_id, market.time_zone, market.name)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Without MARKETS_FILE it writes the speeds alone, with the zone of their hours.
fn fit(settings: &Settings, requests: &Path, time_zone: Tz) -> Result<ExitCode> {
    let markets = settings.markets()?;
    let trips = read_requests(requests, Usable { length_min_m: RIDE_MIN_M, needs_dropoff_time: true })?;
    if trips.left_out.rows > 0 {
        noteln!("{}: {}", requests.display(), trips.left_out);
    }
    let position = |at: simulator::Position| Position { lat: at.lat, lng: at.lng };
    // A time without an offset is one of the market's clock.
    let driven = |market: &Market, request: &Request| {
        let duration_s = (request.dropoff_time? - request.pickup_time).as_seconds_f64();
        let (from, to) = (position(request.pickup), position(request.dropoff));
        let local = market.time_zone.from_local_datetime(&request.pickup_time.naive_utc()).earliest();
        let local = local.filter(|_| !request.has_offset).map(|time| time.to_utc());
        Some(Driven { at: local.unwrap_or(request.pickup_time), from, to, duration_s })
    };
    let Some(path) = settings.markets_path() else {
        let mut world = markets.iter().next().context("there is always a market")?.clone();
        world.time_zone = time_zone;
        let driven: Vec<Driven> = trips.requests.iter().filter_map(|request| driven(&world, request)).collect();
        let fitted = fit::fit(&world, &driven).context("there are too few trips")?;
        noteln!(
            "by the hours of {time_zone}: estimated over driven time {:.3} at 25.2 km/h, {:.3} with these speeds",
            fitted.before,
            fitted.after
        );
        outln!("{}", json!({"time_zone": time_zone.name(), "speed_kmh": fitted.speed_kmh}))?;
        return Ok(ExitCode::SUCCESS);
    };
    let mut file: Value =
        serde_json::from_str(without_mark(&std::fs::read_to_string(path)?)).context("MARKETS_FILE")?;
    let features = file["features"].as_array_mut().context("MARKETS_FILE has no features")?;
    for feature in features {
        let id = feature.pointer("/properties/market_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(market) = markets.get(&id) else { continue };
        let of_market = trips.requests.iter().filter(|request| markets.at(&position(request.pickup)) == Some(market));
        let of_market: Vec<Driven> = of_market.filter_map(|request| driven(market, request)).collect();
        let Some(Fitted { speed_kmh, trips, before, after }) = fit::fit(market, &of_market) else {
            noteln!("{id}: too few trips; its speeds stay");
            continue;
        };
        noteln!("{id}: {trips} trips; estimated over driven time {before:.3} before, {after:.3} with these speeds");
        feature["properties"]["speed_kmh"] = json!(speed_kmh);
    }
    outln!("{}", serde_json::to_string_pretty(&file)?)?;
    Ok(ExitCode::SUCCESS)
}
