//! `rideshare simulate` and `rideshare demo`: a simulated city, against a running platform or an embedded one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use platform::World;
use platform::limits::Limits;
use simulator::{RIDE_MIN_M, Usable, read_requests};
use streams::Service;

use crate::app::App;
use crate::open_files;
use crate::output::{noteln, outln};
use crate::settings::Settings;

/// The cities of the demo, as MARKETS_FILE has them, and their centres.
const DEMO_MARKETS: &str = include_str!("demo_markets.geojson");
const DEMO_CENTRES: [simulator::Position; 2] =
    [simulator::Position { lat: 40.7484, lng: -73.9857 }, simulator::Position { lat: 52.5200, lng: 13.4050 }];

/// What the demo ends with.
const WHERE_TO_LOOK: &str = "
where to look next
  rideshare demo --stay          the platform and its console stay after the last ride: every ride has its story
  rideshare                      serves at http://127.0.0.1:8080 until Ctrl-C, and prints its console's address
  rideshare simulate             drives the same city on it
  rideshare --help               every setting, by topic; README.md has the protocol and the operation, ARCHITECTURE.md how it works";

/// What the demo does after the last ride.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    UntilInterrupted,
    Ends,
}

/// A simulated city.
#[derive(Debug, Clone, Args)]
pub struct City {
    /// Drivers.
    #[arg(long, default_value_t = 12)]
    pub drivers: usize,
    /// Passengers at once.
    #[arg(long, default_value_t = 12)]
    pub passengers: usize,
    /// End after so many completed rides.
    #[arg(long, default_value_t = 30)]
    pub rides: usize,
    /// The randomness of everybody's behaviour.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How much faster than life.
    #[arg(long, default_value_t = 60.0)]
    pub speed: f64,
    /// End after so many seconds, whatever happened.
    #[arg(long, default_value_t = 240)]
    pub max_s: u64,
    /// A CSV of real trips (columns pickup_time, dropoff_time, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, …).
    #[arg(long)]
    pub requests: Option<PathBuf>,
    /// No declines, cancellations or lost connections.
    #[arg(long)]
    pub calm: bool,
}

impl City {
    fn config(&self, urls: Vec<String>, rides_url: Option<String>) -> Result<simulator::Config> {
        let mut config = simulator::Config {
            urls,
            rides_url,
            drivers: self.drivers,
            passengers: self.passengers,
            rides: self.rides,
            time_limit: Duration::from_secs(self.max_s),
            seed: self.seed,
            speed: self.speed,
            progress: true,
            ..simulator::Config::default()
        };
        if self.calm {
            config.faults = simulator::Faults::none();
        }
        if let Some(path) = &self.requests {
            let usable = Usable { length_min_m: RIDE_MIN_M, needs_dropoff_time: false };
            let trips = read_requests(path, usable)?;
            if trips.left_out.rows > 0 {
                noteln!("{}: {}", path.display(), trips.left_out);
            }
            config.requests = Some(trips);
        }
        Ok(config)
    }
}

/// Runs a city against a platform that runs elsewhere.
///
/// # Errors
/// If the platform cannot be reached, or the CSV cannot be read.
pub async fn simulate(urls: Vec<String>, rides_url: Option<String>, city: &City) -> Result<ExitCode> {
    run(city.config(urls, rides_url)?).await
}

/// Runs a city. Status 1 if a client saw a violation, or if no ride was completed.
///
/// # Errors
/// If the platform cannot be reached, or the CSV cannot be read.
async fn run(config: simulator::Config) -> Result<ExitCode> {
    let summary = simulator::run(config).await?;
    outln!("{summary}")?;
    Ok(if summary.violations.is_empty() && summary.completed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts an embedded platform on a free port and runs the city against it.
///
/// # Errors
/// With settings that are not embedded, or if the platform does not start or stop.
pub async fn demo(mut settings: Settings, city: &City, stays: Stay) -> Result<ExitCode> {
    ensure!(settings.embedded(), "demo runs embedded: unset QUEUE_TYPE and DATABASE_URL, or use simulate");
    open_files::raise();
    settings.http_addr = ([127, 0, 0, 1], 0).into();
    // Trips of a file are where they are, and a caller with markets has cities of their own.
    let two_cities = city.requests.is_none() && settings.markets_path().is_none();
    settings.default_markets = two_cities.then_some(DEMO_MARKETS);
    settings.otp_delivery = Some("response".to_owned());
    // Everybody in the city has the same address, and moves faster than life. What the caller set counts on top of that.
    settings.limits = format!("{},{}", Limits::raised(), settings.limits);
    // Simulated drivers move faster than real ones: without a higher limit their points would count as GPS jumps.
    settings.track_max_speed_mps = settings.track_max_speed_mps.max(70.0 * city.speed.max(1.0));
    let app = App::start(&settings, &Service::ALL, World::real()).await?;
    noteln!("the platform runs embedded at http://{}: memory bus, state in memory", app.addr);
    super::run::print_console(&app, "/map");
    let mut config = city.config(vec![format!("http://{}", app.addr)], None)?;
    if two_cities {
        noteln!("two cities: New York, in USD, and Berlin, in EUR");
        config.centres = DEMO_CENTRES.to_vec();
    }
    let result = run(config).await;
    if stays == Stay::UntilInterrupted {
        noteln!("\nthe rides are over: the console shows the story of each, until Ctrl-C");
        tokio::signal::ctrl_c().await?;
    }
    let drained = app.stop().await;
    ensure!(drained, "the platform did not stop in time");
    noteln!("{WHERE_TO_LOOK}");
    result
}
