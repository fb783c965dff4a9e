//! The settings of a run. The environment is read elsewhere.

use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use chrono::{DateTime, Utc};

use crate::observation::Observation;
use crate::position::Position;
use crate::requests::Trips;
use crate::transport::Transport;

/// The least time that a driver takes to answer an offer.
pub(crate) const THINK_MIN: Duration = Duration::from_millis(20);

/// Of fewer rides, the sum of the billed distances may differ by more: by ten times the tolerance for one.
const BILLED_RIDES: u64 = 10;

#[derive(Debug, Clone)]
pub struct Config {
    /// Base URLs of users processes, `http://host:port`. Sockets are spread over them in turn; a reconnect goes to the next.
    pub urls: Vec<String>,
    /// Base URL for `/v1/rides`; `None`: the first of `urls`.
    pub rides_url: Option<String>,
    /// At least 1.
    pub drivers: usize,
    /// At least 1; also the most searches and rides at once.
    pub passengers: usize,
    /// After so many completed rides no new search begins; searches and rides in progress are finished.
    pub rides: usize,
    /// The longest run, real time. Its last third, but at most `wind_down`, is for finishing what is in progress.
    pub time_limit: Duration,
    pub wind_down: Duration,
    /// Seed of every decision of the simulated people.
    pub seed: u64,
    /// Simulated seconds a real second: for movement, gaps between requests, and rests. The platform sees the positions in
    /// real time, so that vehicles drive no faster than its `TRACK_MAX_SPEED_MPS` allows, as its welcome says; for the full speed it
    /// must be raised by the same factor.
    pub speed: f64,
    /// Between two positions of a driver in a ride, real time; three times that without a ride.
    pub position_interval: Duration,
    /// The most time that a driver takes to answer an offer, real time; at least 21 ms.
    pub think_max: Duration,
    pub faults: Faults,
    /// Real trips; `None`: seeded ones around the centres.
    pub requests: Option<Trips>,
    /// Of one or several cities, over which people are spread in turn.
    pub centres: Vec<Position>,
    /// How long a passenger searches before giving up.
    pub patience: Duration,
    /// Selects the phone numbers. `None` takes the wall clock, so that two runs use different accounts and stay below the
    /// platform's limit of codes an hour.
    pub run_id: Option<u64>,
    /// The platform may be unavailable for this long; every deadline of the checker is extended by it.
    pub outage: Duration,
    /// How far the clock of every fourth driver is behind. The contract allows positions up to 24 h old.
    pub slow_clock: Duration,
    /// How far the clock of every other fourth driver is ahead. The contract allows 60 s; positions from further ahead may be refused
    /// until the platform knows the clock, and the ride goes on without them.
    pub fast_clock: Duration,
    /// By how much the sum of the billed distances may differ from the sum of the driven ones, as a part of it, of ten rides or more; see
    /// [`Config::billed_tolerance_of`]. `None` where positions may be lost with what is killed.
    pub billed_tolerance: Option<f64>,
    pub transport: Transport,
    /// The wall-clock time at the start of the run, for a simulation that pauses tokio's clock. `None`: the system's clock.
    pub starts_at: Option<DateTime<Utc>>,
    /// Receives every acked command and every event, as the simulated people receive them.
    pub observer: Option<Sender<Observation>>,
    /// Progress on stderr: one line, rewritten, on a terminal; else a new line every 5 s.
    pub progress: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            urls: vec!["http://127.0.0.1:8080".to_owned()],
            rides_url: None,
            drivers: 20,
            passengers: 20,
            rides: 25,
            time_limit: Duration::from_secs(300),
            wind_down: Duration::from_secs(90),
            seed: 1,
            speed: 40.0,
            position_interval: Duration::from_secs(1),
            think_max: Duration::from_millis(600),
            faults: Faults::default(),
            requests: None,
            centres: vec![Position { lat: 40.7484, lng: -73.9857 }],
            patience: Duration::from_secs(120),
            run_id: None,
            outage: Duration::ZERO,
            slow_clock: Duration::ZERO,
            fast_clock: Duration::ZERO,
            billed_tolerance: Some(0.01),
            transport: Transport::Tcp,
            starts_at: None,
            observer: None,
            progress: false,
        }
    }
}

impl Config {
    /// # Errors
    /// Names the first setting that cannot work.
    pub(crate) fn validate(&self) -> Result<()> {
        ensure!(!self.urls.is_empty(), "no URL of a users process given");
        ensure!(self.drivers > 0 && self.passengers > 0, "a city needs at least one driver and one passenger");
        ensure!(self.rides > 0, "the number of rides to complete is 0");
        ensure!(!self.centres.is_empty(), "there is no city");
        let wrong = self.centres.iter().find(|centre| !centre.is_plausible());
        ensure!(wrong.is_none(), "the centre of the city is no position: {wrong:?}");
        ensure!(self.speed.is_finite() && self.speed > 0.0, "speed is {}, but must be above 0", self.speed);
        let think_min = THINK_MIN + Duration::from_millis(1);
        ensure!(
            self.think_max >= think_min,
            "drivers think for {:?}, but must for {think_min:?} or more",
            self.think_max
        );
        ensure!(self.time_limit >= Duration::from_secs(1), "the time limit is {:?}: too short", self.time_limit);
        if self.requests.as_ref().is_some_and(|trips| trips.requests.is_empty()) {
            bail!("the file of requests holds no usable trip");
        }
        self.faults.validate()
    }

    /// By how much the billed distance of so many rides may differ from the driven one: as much as one ride of ten may.
    pub(crate) fn billed_tolerance_of(&self, rides: u64) -> Option<f64> {
        let fewer = BILLED_RIDES as f64 / rides.clamp(1, BILLED_RIDES) as f64;
        self.billed_tolerance.map(|tolerance| tolerance * fewer)
    }

    /// How long before the time limit no new search begins.
    pub(crate) fn reserved_for_wind_down(&self) -> Duration {
        (self.time_limit / 3).min(self.wind_down)
    }
}

/// What goes wrong on purpose: probabilities, 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    /// A driver declines an offer.
    pub decline: f64,
    /// A driver lets an offer expire.
    pub ignore: f64,
    /// A passenger ends the search before a ride comes of it.
    pub cancel_search: f64,
    /// A passenger cancels a ride after pickup or start.
    pub cancel_ride: f64,
    /// A driver cancels a ride on the way to the pickup.
    pub driver_cancel: f64,
    /// The connection breaks without a close frame. Rolled for each event and each command.
    pub cut: f64,
    /// The app is installed again: it has forgotten everything, signs in again and shows what the welcome's state says. Rolled for each
    /// event and each command.
    pub reinstall: f64,
    /// A command is sent twice at once.
    pub repeat: f64,
    /// A driver gives a wrong PIN first.
    pub wrong_pin: f64,
    /// A position is sent twice, late, in a batch or out of order.
    pub bad_track: f64,
    /// A position 100 km off is sent during a ride.
    pub jump: f64,
    /// A position of the future, far away, is sent between rides. Rolled for each position of a driver whose clock is right.
    pub future_fix: f64,
    /// The receiver repeats its place with new times for a while, as in a tunnel. Rolled for each position of a ride.
    pub frozen: f64,
    /// The phone holds the positions of a ride, and sends them only after `ride.arrive`. Rolled for each ride.
    pub held: f64,
    /// The car stands still during a ride, while its position wanders. Rolled for each position of a ride.
    pub standing: f64,
    /// A second device of the driver lies at a depot out of town and sends where it is. Rolled for each driver.
    pub tablet: f64,
    /// A passenger sends a command that only somebody else may send. Rolled for each ride.
    pub forbidden_command: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            decline: 0.08,
            ignore: 0.02,
            cancel_search: 0.03,
            cancel_ride: 0.03,
            driver_cancel: 0.01,
            cut: 0.01,
            reinstall: 0.003,
            repeat: 0.05,
            wrong_pin: 0.1,
            bad_track: 0.1,
            jump: 0.002,
            future_fix: 0.01,
            frozen: 0.005,
            held: 0.02,
            standing: 0.01,
            tablet: 0.25,
            forbidden_command: 0.05,
        }
    }
}

impl Faults {
    pub const fn none() -> Self {
        Self {
            decline: 0.0,
            ignore: 0.0,
            cancel_search: 0.0,
            cancel_ride: 0.0,
            driver_cancel: 0.0,
            cut: 0.0,
            reinstall: 0.0,
            repeat: 0.0,
            wrong_pin: 0.0,
            bad_track: 0.0,
            jump: 0.0,
            future_fix: 0.0,
            frozen: 0.0,
            held: 0.0,
            standing: 0.0,
            tablet: 0.0,
            forbidden_command: 0.0,
        }
    }

    fn validate(&self) -> Result<()> {
        let all = [
            ("decline", self.decline),
            ("ignore", self.ignore),
            ("decline and ignore together", self.decline + self.ignore),
            ("cancel_search", self.cancel_search),
            ("cancel_ride", self.cancel_ride),
            ("driver_cancel", self.driver_cancel),
            ("cut", self.cut),
            ("reinstall", self.reinstall),
            ("repeat", self.repeat),
            ("wrong_pin", self.wrong_pin),
            ("bad_track", self.bad_track),
            ("jump", self.jump),
            ("future_fix", self.future_fix),
            ("frozen", self.frozen),
            ("held", self.held),
            ("standing", self.standing),
            ("tablet", self.tablet),
            ("forbidden_command", self.forbidden_command),
        ];
        for (name, probability) in all {
            ensure!((0.0..=1.0).contains(&probability), "fault {name} is {probability}, but must be 0 to 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_of_one_ride_is_checked_too() {
        let tolerance = |rides| Config::default().billed_tolerance_of(rides).map(|part| (part * 1e3).round());
        assert_eq!([0, 1, 2, 5, 10, 500].map(tolerance), [100.0, 100.0, 50.0, 20.0, 10.0, 10.0].map(Some));
        assert_eq!(Config { billed_tolerance: None, ..Config::default() }.billed_tolerance_of(1), None);
    }

    #[test]
    fn the_defaults_are_valid_and_an_error_names_the_setting() {
        assert!(Config::default().validate().is_ok());
        let refused = |change: fn(&mut Config), named: &str| {
            let mut config = Config::default();
            change(&mut config);
            let text = config.validate().expect_err(named).to_string();
            assert!(text.contains(named), "{text}");
        };
        refused(|c| c.speed = 0.0, "speed");
        refused(|c| c.urls.clear(), "URL");
        refused(|c| c.faults.cut = 1.5, "cut");
        refused(|c| (c.faults.decline, c.faults.ignore) = (0.7, 0.7), "together");
    }
}
