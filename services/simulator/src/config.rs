//! What a run of the city is told: sizes, limits, faults. It owns no state and reads no environment.

use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use chrono::{DateTime, Utc};

use crate::observation::Observation;
use crate::position::Position;
use crate::requests::Trips;
use crate::transport::Transport;

/// The shortest that a driver thinks about an offer.
pub(crate) const THINK_MIN_MS: u64 = 20;

/// A run of the city.
#[derive(Debug, Clone)]
pub struct Config {
    /// Base URLs of users processes, `http://host:port`. Sockets are spread over them in turn; who reconnects goes to
    /// the next one.
    pub urls: Vec<String>,
    /// Base URL for `/v1/rides`; none means the first of `urls`.
    pub rides_url: Option<String>,
    /// Simulated drivers, at least 1.
    pub drivers: usize,
    /// Simulated passengers, at least 1; also the most requests at once.
    pub passengers: usize,
    /// New requests stop once so many rides are completed; those under way are finished.
    pub rides: usize,
    /// The hard end of the run. The last third of it, or its last `wind_down` if that is less, is kept for winding down.
    pub time_limit: Duration,
    /// The most that is kept for winding down.
    pub wind_down: Duration,
    /// Seed of every decision of the simulated people.
    pub seed: u64,
    /// Simulated seconds a real second: movement, gaps between requests, rests. The platform sees the positions in real
    /// time, so its `TRACK_MAX_SPEED_MPS` must be raised with it.
    pub speed: f64,
    /// Between two positions of a driver in a ride, real time; three times that without one.
    pub position_interval: Duration,
    /// The longest that a driver thinks about an offer, real time, at least 21 ms.
    pub think_max: Duration,
    /// How often things go wrong.
    pub faults: Faults,
    /// Real trips; none means seeded ones around `centre`.
    pub requests: Option<Trips>,
    /// Where seeded trips take place.
    pub centre: Position,
    /// How long a passenger waits for a driver before giving up.
    pub patience: Duration,
    /// Which phone numbers are used. None takes the wall clock, so that two runs do not share accounts and the limit on
    /// codes an hour is not met.
    pub run_id: Option<u64>,
    /// So much longer than usual the platform may be silent: what is late by less is no violation.
    pub outage: Duration,
    /// So far behind are the clocks of every fourth driver; the contract allows up to a day.
    pub slow_clock: Duration,
    /// So far ahead are the clocks of every other fourth driver. The contract allows 60 s: positions from further ahead are
    /// refused, and the ride must go on without them.
    pub fast_clock: Duration,
    /// What connections are made of.
    pub transport: Transport,
    /// What the wall clock says at the beginning, for whoever pauses tokio's clock, which it then follows. None asks the
    /// system.
    pub starts_at: Option<DateTime<Utc>>,
    /// Receives every acked command and every event, as the simulated people receive them.
    pub observer: Option<Sender<Observation>>,
    /// Whether to show progress on stderr: one line that is rewritten on a terminal, else a line every 5 s.
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
            centre: Position { lat: 40.7484, lng: -73.9857 },
            patience: Duration::from_secs(120),
            run_id: None,
            outage: Duration::ZERO,
            slow_clock: Duration::ZERO,
            fast_clock: Duration::ZERO,
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
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(!self.urls.is_empty(), "no URL of a users process given");
        ensure!(self.drivers > 0 && self.passengers > 0, "a city needs at least one driver and one passenger");
        ensure!(self.rides > 0, "the number of rides to complete is 0");
        ensure!(self.centre.is_plausible(), "the centre of the city is no position: {:?}", self.centre);
        ensure!(self.speed.is_finite() && self.speed > 0.0, "speed is {}, but must be above 0", self.speed);
        let think_min = Duration::from_millis(THINK_MIN_MS + 1);
        ensure!(
            self.think_max >= think_min,
            "drivers think for {:?}, but must for {think_min:?} or more",
            self.think_max
        );
        ensure!(self.time_limit >= Duration::from_secs(1), "the longest run is {:?}: too short", self.time_limit);
        if self.requests.as_ref().is_some_and(|trips| trips.requests.is_empty()) {
            bail!("the file of requests holds no usable trip");
        }
        self.faults.check()
    }

    /// How long before the hard end no new request is made.
    pub(crate) fn reserve(&self) -> Duration {
        (self.time_limit / 3).min(self.wind_down)
    }
}

/// Probabilities, 0 to 1, of what goes wrong.
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
    /// The connection goes without a close frame, rolled for each event and each command.
    pub cut: f64,
    /// A command is sent two times at once.
    pub repeat: f64,
    /// A driver gives a wrong PIN first.
    pub wrong_pin: f64,
    /// A position is sent twice, late, in a batch or out of order.
    pub bad_track: f64,
    /// A position 100 km off is sent during a ride.
    pub jump: f64,
    /// Somebody tries what is not theirs to do; rolled for each ride.
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
            repeat: 0.05,
            wrong_pin: 0.1,
            bad_track: 0.1,
            jump: 0.002,
            forbidden_command: 0.05,
        }
    }
}

impl Faults {
    /// Nothing goes wrong.
    pub const fn none() -> Self {
        Self {
            decline: 0.0,
            ignore: 0.0,
            cancel_search: 0.0,
            cancel_ride: 0.0,
            driver_cancel: 0.0,
            cut: 0.0,
            repeat: 0.0,
            wrong_pin: 0.0,
            bad_track: 0.0,
            jump: 0.0,
            forbidden_command: 0.0,
        }
    }

    fn check(&self) -> Result<()> {
        let all = [
            ("decline", self.decline),
            ("ignore", self.ignore),
            ("decline and ignore together", self.decline + self.ignore),
            ("cancel_search", self.cancel_search),
            ("cancel_ride", self.cancel_ride),
            ("driver_cancel", self.driver_cancel),
            ("cut", self.cut),
            ("repeat", self.repeat),
            ("wrong_pin", self.wrong_pin),
            ("bad_track", self.bad_track),
            ("jump", self.jump),
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
    fn defaults_are_valid_and_nonsense_is_named() {
        assert!(Config::default().check().is_ok());
        let bad = |change: fn(&mut Config), named: &str| {
            let mut config = Config::default();
            change(&mut config);
            let text = config.check().expect_err(named).to_string();
            assert!(text.contains(named), "{text}");
        };
        bad(|c| c.speed = 0.0, "speed");
        bad(|c| c.urls.clear(), "URL");
        bad(|c| c.faults.cut = 1.5, "cut");
        bad(|c| (c.faults.decline, c.faults.ignore) = (0.7, 0.7), "together");
    }
}
