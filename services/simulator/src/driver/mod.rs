//! A simulated driver: goes where rides are wanted, answers offers, fetches and brings passengers. It owns its position
//! and its state; it learns of the passenger's PIN only at the pickup.

mod inputs;
mod outgoing_positions;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::time::Instant;

use self::outgoing_positions::{Point, Track};
use crate::checker::Party;
use crate::city::{City, Phase};
use crate::client::{Client, Command, Input};
use crate::clock;
use crate::config::{Config, THINK_MIN_MS};
use crate::position::Position;
use crate::statistics::Count;

/// An answered offer that comes to nothing is forgotten after this; the checker has told by then.
const OUTCOME_LIMIT: Duration = Duration::from_secs(60);
/// A passenger who does not tell the PIN for so long is left behind.
const NO_SHOW: Duration = Duration::from_secs(60);
/// Positions from further ahead are refused (the contract).
const AHEAD_MAX: chrono::Duration = chrono::Duration::seconds(60);
/// How late a position may leave the phone, at most; what is ahead by less may be taken by then.
const LATE_MAX: chrono::Duration = chrono::Duration::minutes(30);
/// After five wrong PINs the platform takes none for so long (and a wrong one repeated for want of an answer is another).
const PIN_LOCK: Duration = Duration::from_secs(30);
/// For going offline at the end.
const GOODBYE: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum State {
    Free,
    Deciding {
        offer: Offer,
        at: Instant,
    },
    /// Declined, accepted or ignored; the outcome is awaited.
    Answered {
        match_id: String,
        until: Instant,
    },
    /// In a ride.
    Riding {
        trip: Box<Trip>,
        leg: Leg,
    },
}

#[derive(Debug, Clone)]
struct Offer {
    match_id: String,
    expires: Instant,
}

/// Where in a ride.
#[derive(Debug)]
enum Leg {
    ToPickup,
    /// At the pickup since; the id of the `ride.start` that is under way.
    Handover {
        since: Instant,
        start: Option<String>,
    },
    ToDropoff,
    /// At the dropoff; the last position, sent with this id, is not acked yet.
    Parking {
        point: String,
    },
    /// The arrival was told; all that is left comes from the platform.
    Arrived,
}

#[derive(Debug)]
struct Trip {
    ride_id: String,
    pickup: Position,
    dropoff: Position,
    driven_m: f64,
    give_wrong_pin: bool,
    /// No PIN is taken before that.
    locked_until: Option<Instant>,
    cancel_at: Option<Instant>,
}

/// A simulated driver.
#[derive(Debug)]
pub(crate) struct Driver {
    city: Arc<City>,
    client: Client,
    rng: StdRng,
    position: Position,
    target: Position,
    speed_mps: f64,
    /// How far this driver's clock is ahead; negative if it is behind.
    clock_off: chrono::Duration,
    /// The time of the newest position: no two are of the same moment.
    measured_at: DateTime<Utc>,
    moved_at: Instant,
    point_at: Instant,
    track: Track,
    state: State,
    /// An offer that came while the driver was not free.
    later: Option<Offer>,
    /// Rides that are over, newest last.
    over: VecDeque<String>,
    /// The `ride.start`s with a PIN that is wrong on purpose.
    wrong_starts: HashSet<String>,
    /// The connection on which the driver last said to be active.
    active_on: u64,
}

impl Driver {
    /// Signs in, drives until the city's day is over, and goes offline.
    ///
    /// # Errors
    /// The sign-in failed.
    pub(crate) async fn live(city: Arc<City>, index: usize) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(city.config.seed.wrapping_mul(0x1_0000).wrapping_add(index as u64));
        let account = city.sign_in(index, Party::Driver).await?;
        let plate = format!("SIM{:05}", index % 100_000);
        account.become_driver(vehicle_type(index, city.config.drivers), &plate).await?;
        let position = city.deal().stand();
        let target = city.deal().stand();
        let now = clock::now();
        let mut driver = Self {
            clock_off: clock_off(&city.config, index)?,
            measured_at: DateTime::UNIX_EPOCH,
            client: Client::new(Arc::clone(&city), account, index),
            speed_mps: rng.random_range(8.0..14.0) * city.config.speed,
            rng,
            position,
            target,
            moved_at: now,
            point_at: now,
            track: Track::default(),
            state: State::Free,
            later: None,
            over: VecDeque::new(),
            wrong_starts: HashSet::new(),
            active_on: 0,
            city,
        };
        driver.city.online.change(1);
        while driver.city.phase() != Phase::Over {
            let wake = driver.act(clock::now());
            let input = driver.client.next(wake).await;
            driver.take(input);
        }
        driver.city.online.change(-1);
        driver.go_home().await;
        Ok(())
    }

    async fn go_home(mut self) {
        let id = self.client.command("beacon.update", json!({"active": false, "location": self.position}));
        let until = clock::now() + GOODBYE;
        loop {
            match self.client.next(until).await {
                Input::Time => break,
                Input::Acked { command, .. } | Input::Refused { command, .. } if command.id == id => break,
                _ => {}
            }
        }
        self.client.close().await;
    }

    /// Does what is due. Returns when to look again.
    fn act(&mut self, now: Instant) -> Instant {
        self.drive(now);
        self.be_active();
        let mut wake = self.point_at.max(now + Duration::from_millis(20));
        match &mut self.state {
            State::Free => {
                if let Some(offer) = self.later.take().filter(|offer| offer.expires > now) {
                    self.consider(offer, now);
                } else if self.position == self.target {
                    self.target = self.city.deal().stand();
                }
            }
            State::Deciding { at, .. } if *at > now => wake = wake.min(*at),
            State::Deciding { offer, .. } => {
                let offer = offer.clone();
                self.answer(&offer, now);
            }
            State::Answered { until, .. } => {
                if *until <= now {
                    self.state = State::Free;
                }
            }
            State::Riding { trip, leg } => {
                if trip.cancel_at.is_some_and(|at| at <= now) {
                    trip.cancel_at = None;
                    let data = json!({"ride_id": trip.ride_id, "reason": "vehicle trouble"});
                    self.client.command("ride.cancel", data);
                }
                let left_m = self.position.distance_m(&self.target);
                match leg {
                    Leg::ToPickup if left_m == 0.0 => *leg = Leg::Handover { since: now, start: None },
                    Leg::ToDropoff if left_m == 0.0 => self.park(now),
                    Leg::ToPickup | Leg::ToDropoff => {
                        let left = Duration::from_secs_f64((left_m / self.speed_mps).clamp(0.02, 3.0));
                        wake = wake.min(now + left);
                    }
                    Leg::Handover { .. } => {
                        self.hand_over(now);
                        wake = wake.min(now + Duration::from_millis(200));
                    }
                    Leg::Parking { .. } | Leg::Arrived => {}
                }
            }
        }
        wake
    }

    /// Moves by the time that went by, and tells where that led.
    fn drive(&mut self, now: Instant) {
        let step_m = self.speed_mps * now.duration_since(self.moved_at).as_secs_f64();
        self.moved_at = now;
        let before = self.position;
        self.position = before.toward(&self.target, step_m);
        let riding = matches!(self.state, State::Riding { .. });
        let mut driving_passenger = false;
        if let State::Riding { trip, leg: Leg::ToDropoff } = &mut self.state {
            trip.driven_m += before.distance_m(&self.position);
            driving_passenger = true;
        }
        let there = riding && before != self.position && self.position == self.target;
        if now < self.point_at && !there {
            return;
        }
        self.point_at = now + self.city.config.position_interval * if riding { 1 } else { 3 };
        let mut point = self.point(&before);
        let faults = &self.city.config.faults;
        if driving_passenger && self.rng.random_bool(faults.jump) {
            let jump = Point { position: point.position.offset(70_000.0, 70_000.0), ..point.clone() };
            self.client.say("location.update", &jump.data());
            point.recorded_at += chrono::Duration::milliseconds(1);
            self.measured_at = point.recorded_at;
        }
        let connected = self.client.connected_since().is_some();
        let updates = self.track.add(point, connected, faults.bad_track, &mut self.rng);
        self.city.tally().add_many(Count::Points, updates.len() as u64);
        for data in updates {
            if self.rng.random_bool(0.05) {
                self.client.command("location.update", data);
            } else {
                self.client.say("location.update", &data);
            }
        }
    }

    fn point(&mut self, before: &Position) -> Point {
        let now = self.city.wall.now() + self.clock_off;
        self.measured_at = now.max(self.measured_at + chrono::Duration::microseconds(1));
        let moving = *before != self.position;
        Point {
            position: self.position,
            speed_mps: if moving { self.speed_mps } else { 0.0 },
            heading_deg: before.heading_deg(&self.position),
            recorded_at: self.measured_at,
        }
    }

    /// Says to be active once for each connection, when free: the platform may take a lost one for a leave.
    fn be_active(&mut self) {
        let connects = self.client.connects();
        let wanted = self.client.connected_since().is_some() && self.active_on != connects;
        if wanted && !matches!(self.state, State::Riding { .. }) {
            self.active_on = connects;
            self.client.command("beacon.update", json!({"active": true, "location": self.position}));
        }
    }

    fn consider(&mut self, offer: Offer, now: Instant) {
        self.target = self.position;
        let most_ms = self.city.config.think_max.as_millis() as u64;
        let at = now + Duration::from_millis(self.rng.random_range(THINK_MIN_MS..most_ms));
        self.state = State::Deciding { offer, at };
    }

    fn answer(&mut self, offer: &Offer, now: Instant) {
        let match_id = offer.match_id.clone();
        let faults = &self.city.config.faults;
        let roll: f64 = self.rng.random();
        let mut until = now + OUTCOME_LIMIT;
        if roll < faults.decline {
            self.client.command("match.reject", json!({"match_id": match_id, "reason": "too far away"}));
        } else if roll < faults.decline + faults.ignore {
            until = offer.expires + OUTCOME_LIMIT;
        } else {
            self.city.checks().accepting(&match_id, now);
            self.client.command("match.accept", json!({"match_id": match_id}));
        }
        self.state = State::Answered { match_id, until };
    }

    /// Gives the PIN as soon as the passenger has told it; sometimes a wrong one first.
    fn hand_over(&mut self, now: Instant) {
        let State::Riding { trip, leg: Leg::Handover { since, start } } = &mut self.state else { return };
        if start.is_some() || trip.locked_until.is_some_and(|until| now < until) {
            return;
        }
        let Some(pin) = self.city.pin(&trip.ride_id) else {
            if now.duration_since(*since) >= NO_SHOW && trip.cancel_at.is_none() {
                trip.cancel_at = Some(now);
                *since = now;
            }
            return;
        };
        let wrong = std::mem::take(&mut trip.give_wrong_pin);
        let pin = if wrong { other_pin(&pin) } else { pin };
        let id = self.client.command("ride.start", json!({"ride_id": trip.ride_id, "pin": pin}));
        *start = Some(id.clone());
        if wrong {
            self.wrong_starts.insert(id);
        }
    }

    /// At the dropoff: the last position must be durable before the arrival is told.
    fn park(&mut self, now: Instant) {
        for data in self.track.flush() {
            self.client.say("location.update", &data);
        }
        let here = self.position;
        let data = self.point(&here).data();
        let point = self.client.command("location.update", data);
        self.point_at = now + self.city.config.position_interval;
        if let State::Riding { leg, .. } = &mut self.state {
            *leg = Leg::Parking { point };
        }
    }

    /// The last position was answered: tells the arrival.
    fn parked(&mut self, command: &Command) {
        let State::Riding { trip, leg } = &mut self.state else { return };
        if matches!(leg, Leg::Parking { point } if *point == command.id) {
            *leg = Leg::Arrived;
            self.client.command("ride.arrive", json!({"ride_id": trip.ride_id}));
        }
    }
}

/// How far the clock of the driver `index` is ahead.
fn clock_off(config: &Config, index: usize) -> Result<chrono::Duration> {
    Ok(match index % 4 {
        1 => chrono::Duration::from_std(config.fast_clock)?,
        3 => -chrono::Duration::from_std(config.slow_clock)?,
        _ => chrono::Duration::zero(),
    })
}

/// Nearly all drive cars; a large city has some motorcycles and vans.
pub(crate) fn vehicle_type(index: usize, drivers: usize) -> &'static str {
    match index % 10 {
        8 if drivers >= 50 => "motorcycle",
        9 if drivers >= 50 => "van",
        _ => "car",
    }
}

/// Another PIN of the same length.
fn other_pin(pin: &str) -> String {
    let turned = |digit: char| match digit.to_digit(10) {
        Some(digit) => char::from_digit((digit + 1) % 10, 10).unwrap_or('0'),
        None => '0',
    };
    pin.chars().map(turned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_pin_differs_and_has_the_same_length() {
        assert_eq!(other_pin("0945"), "1056");
        assert_eq!(other_pin("9999").len(), 4);
    }

    #[test]
    fn small_cities_have_cars_only() {
        assert!((0..20).all(|index| vehicle_type(index, 20) == "car"));
        assert_eq!(vehicle_type(9, 100), "van");
    }
}
