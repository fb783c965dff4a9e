//! A simulated driver: waits where rides are wanted, answers offers, fetches passengers and brings them to the dropoff. It
//! learns the passenger's PIN only at the pickup.

mod outgoing_positions;
mod state;
mod tablet;
mod vehicle;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::outgoing_positions::{OutgoingPositions, Point};
use self::state::{Leg, Offer, State, Trip};
use self::vehicle::Vehicle;
use crate::checker::{Effect, Party, Status};
use crate::city::{City, Phase, vehicle_type};
use crate::client::{Client, Command, Input};
use crate::clock;
use crate::config::{Config, THINK_MIN};
use crate::frame::{Event, text, time};
use crate::position::Position;
use crate::statistics::Counter;

/// How long the outcome of an answered offer is awaited; the checker reports a missing one before that.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a driver waits for the PIN before cancelling the ride.
const PIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the platform accepts no PIN after five wrong ones. A wrong PIN that is repeated for want of an answer counts again.
const PIN_LOCK: Duration = Duration::from_secs(30);
/// The contract: positions from further ahead are refused, until the platform knows the clock of their device.
const CLOCK_AHEAD_MAX: chrono::Duration = chrono::Duration::seconds(60);
/// How far ahead a fix of the future is, and where: nobody drives there.
const FUTURE: chrono::Duration = chrono::Duration::seconds(55);
const NOWHERE: Position = Position { lat: 0.0, lng: 0.0 };
/// The platform may offer a driver where they were this long ago, and this far from there, at most.
const PLACE_AGE_MAX: Duration = Duration::from_secs(10);
const PLACE_ERROR_M: f64 = 2_000.0;
/// The most ended rides that are stored, to recognise late events.
const ENDED_RIDES_MAX: usize = 16;
/// Within this time after the device of a ride was last received, another one's positions count.
const HAND_OVER: Duration = Duration::from_secs(35);
/// The wait for the ack of going offline at the end.
const GO_OFFLINE_TIMEOUT: Duration = Duration::from_secs(5);
/// The least time between two looks at what is due.
const TICK_MIN: Duration = Duration::from_millis(20);
/// How long a car stands at most, simulated seconds, and how many points a frozen receiver repeats at most.
const STANDS_MAX_S: f64 = 300.0;
/// The share of drivers who say that they wait at the pickup, and of those who cancel, who say that nobody came.
const WAITS: f64 = 0.3;
const SAYS_NO_SHOW: f64 = 0.3;
const FROZEN_POINTS_MAX: u32 = 8;
/// The share of positions that are sent with an id, so that the platform answers.
const ANSWERED_POSITIONS: f64 = 0.05;

#[derive(Debug)]
pub(crate) struct Driver {
    city: Arc<City>,
    client: Client,
    rng: StdRng,
    vehicle: Vehicle,
    outgoing: OutgoingPositions,
    next_point_at: Instant,
    state: State,
    /// An offer that arrived while the driver was not free.
    next_offer: Option<Offer>,
    /// The last rides that have ended, oldest first.
    ended_rides: VecDeque<String>,
    /// Ids of the `ride.start`s with a wrong PIN.
    wrong_pin_ids: HashSet<String>,
    /// The number of the connection on which `beacon.update` was last sent.
    active_on: u64,
    index: usize,
    /// By the speed of the simulation alone, in metres a real second.
    wanted_mps: f64,
    /// Until then another device may be the one whose positions count.
    unseen_until: Instant,
}

impl Driver {
    /// Signs in, drives until the phase is over, and goes offline.
    ///
    /// # Errors
    /// The sign-in failed.
    pub(crate) async fn run(city: Arc<City>, index: usize) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(city.config.seed.wrapping_mul(0x1_0000).wrapping_add(index as u64));
        let account = city.sign_in(index, Party::Driver).await?;
        account.register_driver(vehicle_type(index, city.config.drivers), "S").await?;
        let position = city.schedule().idle_position(index);
        let target = city.schedule().idle_position(index);
        let now = clock::now();
        let clock_offset = clock_offset(&city.config, index)?;
        // Dropped, and so aborted, with the driver.
        let mut devices = JoinSet::new();
        if rng.random_bool(city.config.faults.tablet) {
            devices.spawn(tablet::run(Arc::clone(&city), Arc::clone(&account), index));
        }
        let mut client = Client::new(Arc::clone(&city), account, index);
        if !devices.is_empty() {
            // With the phone's id gone, the tablet at the depot would be as good as the new one.
            client.keep_device();
        }
        // Within what the platform believes, which the first welcome says.
        let wanted_mps = rng.random_range(8.0..14.0) * city.config.speed;
        let speed_mps = wanted_mps.min(city.fastest_mps());
        let mut driver = Self {
            client,
            rng,
            vehicle: Vehicle::new(position, target, speed_mps, clock_offset, now),
            outgoing: OutgoingPositions::default(),
            next_point_at: now,
            state: State::Free,
            next_offer: None,
            ended_rides: VecDeque::new(),
            wrong_pin_ids: HashSet::new(),
            active_on: 0,
            index,
            wanted_mps,
            unseen_until: now,
            city,
        };
        while driver.city.phase() != Phase::Over {
            let deadline = driver.act(clock::now());
            let input = driver.client.next(deadline).await;
            driver.on_input(input);
        }
        driver.go_offline().await;
        Ok(())
    }

    async fn go_offline(mut self) {
        let beacon = json!({"active": false, "location": self.vehicle.position});
        let id = self.client.send("beacon.update", beacon);
        let deadline = clock::now() + GO_OFFLINE_TIMEOUT;
        loop {
            match self.client.next(deadline).await {
                Input::Deadline => break,
                Input::Acked { command, .. } | Input::Refused { command, .. } if command.id == id => break,
                _ => {}
            }
        }
        self.client.close().await;
    }

    /// Does what is due by the clock. Returns when to look again.
    fn act(&mut self, now: Instant) -> Instant {
        self.drive(now);
        self.send_beacon();
        let next_point_at = self.next_point_at.max(now + TICK_MIN);
        match &mut self.state {
            State::Free => {
                if let Some(offer) = self.next_offer.take().filter(|offer| offer.expires_at > now) {
                    self.consider(offer, now);
                } else if self.vehicle.is_there() {
                    let target = self.city.schedule().idle_position(self.index);
                    self.vehicle.head_for(target, now);
                }
            }
            State::Deciding { at, .. } if *at > now => return next_point_at.min(*at),
            State::Deciding { offer, .. } => {
                let offer = offer.clone();
                self.answer(&offer, now);
            }
            State::Answered { until, .. } => {
                if *until <= now {
                    self.state = State::Free;
                }
            }
            State::Riding { .. } => return next_point_at.min(self.ride(now)),
        }
        next_point_at
    }

    /// Does what is due in a ride. Returns when to look again at the latest.
    fn ride(&mut self, now: Instant) -> Instant {
        let no_later = self.next_point_at.max(now + TICK_MIN);
        let State::Riding { trip, leg } = &mut self.state else { return no_later };
        if trip.cancel_at.is_some_and(|at| at <= now) {
            trip.cancel_at = None;
            // A passenger who does not come; the platform decides whether the driver has waited long enough.
            let reason = if std::mem::take(&mut trip.says_no_show) { "no_show" } else { "vehicle trouble" };
            let data = json!({"ride_id": trip.ride_id, "reason": reason});
            self.client.send("ride.cancel", data);
        }
        let left_m = self.vehicle.left_m();
        match leg {
            Leg::ToPickup if left_m == 0.0 => {
                *leg = Leg::AtPickup { since: now, start_id: None };
                if trip.waits {
                    self.client.send("ride.wait", json!({"ride_id": trip.ride_id}));
                }
            }
            Leg::ToDropoff if left_m == 0.0 && trip.holds_positions => {
                let data = json!({"ride_id": trip.ride_id});
                *leg = Leg::Arrived;
                self.client.send("ride.arrive", data);
            }
            Leg::ToDropoff if left_m == 0.0 => self.send_last_position(now),
            Leg::ToPickup | Leg::ToDropoff => {
                let left_s = (left_m / self.vehicle.speed_mps).clamp(0.02, 3.0);
                return now + Duration::from_secs_f64(left_s);
            }
            Leg::AtPickup { .. } => {
                self.give_pin(now);
                return now + Duration::from_millis(200);
            }
            Leg::AtDropoff { .. } | Leg::Arrived => {}
        }
        no_later
    }

    /// Moves, and sends a position if one is due or the target is reached.
    fn drive(&mut self, now: Instant) {
        let before = self.vehicle.advance(now);
        self.vehicle.speed_mps = self.wanted_mps.min(self.city.fastest_mps());
        let riding = matches!(self.state, State::Riding { .. });
        let (mut with_passenger, mut holds) = (false, false);
        if let State::Riding { trip, leg: Leg::ToDropoff } = &mut self.state {
            trip.driven_m = trip.driven_m.map(|driven_m| driven_m + before.distance_m(&self.vehicle.position));
            (with_passenger, holds) = (true, trip.holds_positions);
        }
        let arrives = riding && before != self.vehicle.position && self.vehicle.is_there();
        if now < self.next_point_at && !arrives {
            return;
        }
        self.next_point_at = now + self.city.config.position_interval * if riding { 1 } else { 3 };
        let faults = &self.city.config.faults;
        if with_passenger && self.rng.random_bool(faults.frozen) {
            self.vehicle.freeze(self.rng.random_range(2..=FROZEN_POINTS_MAX));
        }
        if with_passenger && self.rng.random_bool(faults.standing) {
            let seconds = self.rng.random_range(1.0..STANDS_MAX_S) / self.city.config.speed;
            self.vehicle.stand(now + Duration::from_secs_f64(seconds));
        }
        if !with_passenger {
            self.vehicle.thaw();
        }
        let mut point = self.vehicle.measure(&before, self.city.wall_clock.now());
        if holds {
            return self.outgoing.hold(point);
        }
        if with_passenger && self.rng.random_bool(faults.jump) {
            let jump = self.vehicle.jump(&mut point);
            self.client.send_unanswered("location.update", &jump.data());
        }
        if self.client.connected_since().is_none() {
            self.outgoing.add_offline(point, faults.bad_track, &mut self.rng);
            return;
        }
        if !riding && self.vehicle.clock_offset.is_zero() && self.rng.random_bool(faults.future_fix) {
            let now = self.city.wall_clock.now();
            let future = Point { position: NOWHERE, recorded_at: now + FUTURE, ..point.clone() };
            self.client.send_unanswered("location.update", &future.data());
        }
        let newest = point.position;
        let updates = self.outgoing.add(point, faults.bad_track, &mut self.rng);
        self.city.statistics().add(Counter::PositionsSent, updates.len() as u64);
        if !updates.is_empty() {
            self.expect_seen(newest, now);
        }
        for data in updates {
            if self.rng.random_bool(ANSWERED_POSITIONS) {
                self.client.send("location.update", data);
            } else {
                self.client.send_unanswered("location.update", &data);
            }
        }
    }

    /// The passenger must see this position, which was sent as the newest. The platform refuses those of a clock that is too far ahead.
    fn expect_seen(&self, position: Position, now: Instant) {
        if let State::Riding { trip, .. } = &self.state
            && self.vehicle.clock_offset < CLOCK_AHEAD_MAX
            && now >= self.unseen_until
        {
            self.city.checker().position_sent(&trip.ride_id, position, now);
        }
    }

    /// Sends `beacon.update` once for each connection, outside rides: the platform may have taken the driver of a lost one
    /// offline.
    fn send_beacon(&mut self) {
        let connects = self.client.connects();
        let due = self.client.connected_since().is_some() && self.active_on != connects;
        if due && !matches!(self.state, State::Riding { .. }) {
            self.active_on = connects;
            let beacon = json!({"active": true, "location": self.vehicle.position});
            self.client.send("beacon.update", beacon);
        }
    }

    fn consider(&mut self, offer: Offer, now: Instant) {
        self.vehicle.stop();
        let (min_ms, max_ms) = (THINK_MIN.as_millis() as u64, self.city.config.think_max.as_millis() as u64);
        let at = now + Duration::from_millis(self.rng.random_range(min_ms..max_ms));
        self.state = State::Deciding { offer, at };
    }

    fn answer(&mut self, offer: &Offer, now: Instant) {
        let match_id = offer.match_id.clone();
        let faults = &self.city.config.faults;
        let roll: f64 = self.rng.random();
        let mut until = now + OUTCOME_TIMEOUT;
        if roll < faults.decline {
            self.client.send("match.reject", json!({"match_id": match_id, "reason": "too far away"}));
        } else if roll < faults.decline + faults.ignore {
            until = offer.expires_at + OUTCOME_TIMEOUT;
        } else {
            self.city.checker().accepting(&match_id, now);
            self.client.send("match.accept", json!({"match_id": match_id}));
        }
        self.state = State::Answered { match_id, until };
    }

    /// Sends `ride.start` as soon as the passenger has shared the PIN; a wrong PIN first, if so decided.
    fn give_pin(&mut self, now: Instant) {
        let State::Riding { trip, leg: Leg::AtPickup { since, start_id } } = &mut self.state else { return };
        if start_id.is_some() || trip.pin_locked_until.is_some_and(|until| now < until) {
            return;
        }
        let Some(pin) = self.city.shared_pin(&trip.ride_id) else {
            if now.duration_since(*since) >= PIN_TIMEOUT && trip.cancel_at.is_none() {
                trip.cancel_at = Some(now);
                *since = now;
            }
            return;
        };
        let wrong = std::mem::take(&mut trip.give_wrong_pin);
        let pin = if wrong { wrong_pin(&pin) } else { pin };
        let id = self.client.send("ride.start", json!({"ride_id": trip.ride_id, "pin": pin}));
        *start_id = Some(id.clone());
        if wrong {
            self.wrong_pin_ids.insert(id);
        }
    }

    /// At the dropoff: the last position must be acked before `ride.arrive` is sent.
    fn send_last_position(&mut self, now: Instant) {
        for data in self.outgoing.flush() {
            self.client.send("location.update", data);
        }
        self.vehicle.thaw();
        let here = self.vehicle.position;
        let data = self.vehicle.measure(&here, self.city.wall_clock.now()).data();
        let position_id = self.client.send("location.update", data);
        self.next_point_at = now + self.city.config.position_interval;
        if let State::Riding { leg, .. } = &mut self.state {
            *leg = Leg::AtDropoff { position_id };
        }
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.on_event(&event),
            Input::Acked { command, data } => self.on_ack(&command, &data),
            Input::Refused { command, code } => self.on_refusal(&command, &code),
            Input::Unanswered { command } => self.on_unanswered(&command),
            Input::Rebuilt { state } => self.rebuild(&state),
            Input::Deadline => {}
        }
    }

    /// The app was installed again: what it shows is what the platform's state says. The vehicle is where it was, and the positions
    /// that the phone held are lost.
    fn rebuild(&mut self, state: &Value) {
        let now = clock::now();
        self.outgoing = OutgoingPositions::default();
        self.next_offer = None;
        self.ended_rides.clear();
        self.wrong_pin_ids.clear();
        self.unseen_until = now + HAND_OVER;
        let part = |name: &str| state.get(name).filter(|part| !part.is_null());
        let rebuilt = part("ride").and_then(|ride| Trip::of_state(ride, now));
        match (rebuilt, part("offer")) {
            (Some((trip, leg, target)), _) => {
                self.vehicle.head_for(target, now);
                self.state = State::Riding { trip: Box::new(trip), leg };
            }
            (None, Some(offer)) if text(offer, "state") == "open" => {
                let offer = self.offer(offer, now);
                self.consider(offer, now);
            }
            (None, Some(offer)) => {
                let match_id = text(offer, "match_id").to_owned();
                self.state = State::Answered { match_id, until: now + OUTCOME_TIMEOUT };
            }
            (None, None) => {
                self.state = State::Free;
                self.vehicle.stop();
            }
        }
    }

    /// The offer of a match.found or of a state.
    fn offer(&self, body: &Value, now: Instant) -> Offer {
        let left = time(body, "expires_at").map(|at| at - self.city.wall_clock.now());
        let left = left.and_then(|left| left.to_std().ok()).unwrap_or(Duration::ZERO).min(OUTCOME_TIMEOUT);
        Offer { match_id: text(body, "match_id").to_owned(), expires_at: now + left }
    }

    fn on_event(&mut self, event: &Event) {
        let now = clock::now();
        match event.kind.as_str() {
            "match.found" => self.on_match_found(event, now),
            "match.rejected" => self.on_match_rejected(event),
            "ride.pickup" => self.on_pickup(event, now),
            "ride.started" => {
                if let Some((trip, leg)) = self.state.ride(event.text("ride_id"))
                    && matches!(leg, Leg::ToPickup | Leg::AtPickup { .. })
                {
                    let dropoff = trip.dropoff;
                    *leg = Leg::ToDropoff;
                    self.vehicle.head_for(dropoff, now);
                }
            }
            "ride.completed" | "ride.cancelled" => self.on_ride_end(event),
            _ => {}
        }
    }

    fn on_match_found(&mut self, event: &Event, now: Instant) {
        self.city.statistics().increment(Counter::Offers);
        self.check_place(event);
        let offer = self.offer(&event.data, now);
        match self.state {
            State::Free => self.consider(offer, now),
            _ => self.next_offer = Some(offer),
        }
    }

    /// The platform offers a ride to a driver where the driver is: whatever reconnects, wrong clocks and single wrong fixes there were.
    fn check_place(&self, event: &Event) {
        let offered = event.data.get("driver_location").and_then(|value| Position::deserialize(value).ok());
        let Some(offered) = offered else { return };
        // A clock is known after some positions, each of which comes after three intervals.
        let config = &self.city.config;
        let age = PLACE_AGE_MAX + config.outage + config.position_interval * 12;
        let most_m = PLACE_ERROR_M + age.as_secs_f64() * self.vehicle.speed_mps;
        let off_m = offered.distance_m(&self.vehicle.position);
        if off_m > most_m {
            let text = format!("{}: offered a ride {off_m:.0} m from where they are", self.client.user_id());
            self.city.checker().violation(text);
        }
    }

    fn on_match_rejected(&mut self, event: &Event) {
        let match_id = event.text("match_id");
        let counter = match event.text("reason") {
            "declined" => Counter::OffersDeclined,
            "expired" => Counter::OffersExpired,
            "superseded" => Counter::OffersSuperseded,
            _ => Counter::OffersCancelled,
        };
        self.city.statistics().increment(counter);
        if self.next_offer.as_ref().is_some_and(|offer| offer.match_id == match_id) {
            self.next_offer = None;
        }
        if self.state.match_id() == Some(match_id) {
            self.state = State::Free;
        }
    }

    fn on_pickup(&mut self, event: &Event, now: Instant) {
        let ride_id = event.text("ride_id").to_owned();
        if self.ended_rides.contains(&ride_id) || self.state.ride(&ride_id).is_some() {
            return;
        }
        let position = |field: &str| event.data.get(field).and_then(|value| Position::deserialize(value).ok());
        let (Some(pickup), Some(dropoff)) = (position("pickup"), position("dropoff")) else {
            let text = format!("ride {ride_id}: ride.pickup without `pickup` or `dropoff`");
            return self.city.checker().violation(text);
        };
        let faults = &self.city.config.faults;
        let cancels = self.rng.random_bool(faults.driver_cancel);
        let cancel_at = cancels.then(|| now + Duration::from_millis(self.rng.random_range(0..10_000)));
        let give_wrong_pin = self.rng.random_bool(faults.wrong_pin);
        let holds_positions = self.rng.random_bool(faults.held);
        let (driven_m, pin_locked_until) = (Some(0.0), None);
        let (waits, says_no_show) = (self.rng.random_bool(WAITS), self.rng.random_bool(SAYS_NO_SHOW));
        let trip = Trip {
            ride_id,
            dropoff,
            driven_m,
            holds_positions,
            give_wrong_pin,
            pin_locked_until,
            cancel_at,
            waits,
            says_no_show,
        };
        self.vehicle.head_for(pickup, now);
        self.state = State::Riding { trip: Box::new(trip), leg: Leg::ToPickup };
    }

    fn on_ride_end(&mut self, event: &Event) {
        let ride_id = event.text("ride_id");
        if event.kind == "ride.cancelled" {
            self.city.statistics().cancellation(event.text("by"));
        }
        if self.ended_rides.len() >= ENDED_RIDES_MAX {
            self.ended_rides.pop_front();
        }
        self.ended_rides.push_back(ride_id.to_owned());
        self.city.remove_pin(ride_id);
        let Some((trip, _)) = self.state.ride(ride_id) else { return };
        let driven_m = trip.driven_m;
        self.state = State::Free;
        self.vehicle.stop();
        let billed_m = event.data.get("distance_m").and_then(Value::as_f64);
        let Some((billed_m, driven_m)) = billed_m.zip(driven_m) else { return };
        self.city.statistics().billed(billed_m, driven_m);
        // With a clock that is ahead, by as much as the contract allows, points before the start count as points of the ride.
        let ahead_s = self.vehicle.clock_offset.as_seconds_f64().clamp(0.0, CLOCK_AHEAD_MAX.as_seconds_f64());
        let before_start_m = ahead_s * self.vehicle.speed_mps;
        // Without enough points the platform may bill its estimate, which exceeds the straight line: up to twice is fair.
        // A jump of 100 km is not.
        if billed_m > 2.0 * driven_m + 1_000.0 + before_start_m {
            let text = format!("ride {ride_id}: {billed_m:.0} m billed, {driven_m:.0} m driven");
            self.city.checker().violation(text);
        }
    }

    fn on_ack(&mut self, command: &Command, data: &Value) {
        let ride_id = text(&command.data, "ride_id").to_owned();
        let reaches = |status| Effect::RideReaches { ride_id: ride_id.clone(), status };
        match command.kind {
            "match.accept" | "match.reject" => {
                let match_id = text(&command.data, "match_id").to_owned();
                if text(data, "match_id") != match_id {
                    let text = format!("match {match_id}: {} acked for another match", command.kind);
                    self.city.checker().violation(text);
                }
                self.expect(command.kind, Effect::OfferEnds { match_id });
            }
            "ride.wait" => self.expect("ride.wait", reaches(Status::Waiting)),
            "ride.start" => {
                if self.had_wrong_pin(&command.id) {
                    self.city.checker().violation(format!("ride {ride_id}: started with a wrong PIN"));
                }
                self.expect("ride.start", reaches(Status::Started));
            }
            "location.update" => {
                self.on_position_answered(command);
            }
            "ride.arrive" => {
                self.expect("ride.arrive", reaches(Status::Completed));
                // What the phone held; it holds it until the platform has it.
                for data in self.outgoing.flush() {
                    self.client.send("location.update", data);
                }
            }
            "ride.cancel" => self.expect("ride.cancel", reaches(Status::Cancelled)),
            _ => {}
        }
    }

    fn on_refusal(&mut self, command: &Command, code: &str) {
        let ride_id = text(&command.data, "ride_id").to_owned();
        match command.kind {
            "match.accept" | "match.reject" => {
                // Too late: the offer has expired, or the passenger has ended the search. The platform sends an event for both.
                let match_id = text(&command.data, "match_id");
                if matches!(&self.state, State::Answered { match_id: answered, .. } if answered == match_id) {
                    self.state = State::Free;
                }
            }
            "ride.start" if self.had_wrong_pin(&command.id) => self.city.statistics().increment(Counter::WrongPins),
            "ride.start" if code == "pin_locked" => {
                if let Some((trip, Leg::AtPickup { start_id, .. })) = self.state.ride(&ride_id) {
                    trip.pin_locked_until = Some(clock::now() + PIN_LOCK);
                    *start_id = None;
                }
            }
            // The driver has not waited long enough to say that nobody came: then there is another reason.
            "ride.cancel" if ["too_early", "ride_not_waiting"].contains(&code) => {
                if let Some((trip, _)) = self.state.ride(&ride_id) {
                    trip.cancel_at = Some(clock::now());
                }
            }
            // Only the ride's end is a reason to refuse these.
            "ride.start" => self.expect("ride.start", Effect::RideEnds { ride_id }),
            "ride.arrive" => self.expect("ride.arrive", Effect::RideEnds { ride_id }),
            // Too far ahead, and the platform does not know the clock yet: the ride goes on without the position.
            "location.update" if code == "invalid_field" && self.vehicle.clock_offset >= CLOCK_AHEAD_MAX => {
                self.on_position_answered(command);
            }
            "location.update" | "beacon.update" => {
                let text = format!("{}: {} refused: {code}", self.client.user_id(), command.kind);
                self.city.checker().violation(text);
                self.on_position_answered(command);
            }
            _ => {}
        }
    }

    /// Sends again what was given up and is still needed.
    fn on_unanswered(&mut self, command: &Command) {
        match (command.kind, &mut self.state) {
            ("ride.start", State::Riding { leg: Leg::AtPickup { start_id, .. }, .. }) => {
                self.wrong_pin_ids.remove(&command.id);
                *start_id = None;
            }
            ("ride.arrive", State::Riding { leg: Leg::Arrived, .. }) => {
                self.client.send("ride.arrive", command.data.clone());
            }
            ("location.update", _) => self.on_position_answered(command),
            ("beacon.update", _) => self.active_on = 0,
            _ => {}
        }
    }

    /// The last position of a ride was answered: sends `ride.arrive`.
    fn on_position_answered(&mut self, command: &Command) {
        let State::Riding { trip, leg } = &mut self.state else { return };
        if matches!(leg, Leg::AtDropoff { position_id } if *position_id == command.id) {
            *leg = Leg::Arrived;
            self.client.send("ride.arrive", json!({"ride_id": trip.ride_id}));
        }
    }

    /// Whether this `ride.start`, which is now answered, had a wrong PIN on purpose; then the right one is given next. A right
    /// one is not given again, not even if its ack comes after `ride.started`.
    fn had_wrong_pin(&mut self, id: &str) -> bool {
        let wrong = self.wrong_pin_ids.remove(id);
        if wrong && let State::Riding { leg: Leg::AtPickup { start_id, .. }, .. } = &mut self.state {
            start_id.take_if(|pending| *pending == id);
        }
        wrong
    }

    fn expect(&self, cause: &'static str, effect: Effect) {
        self.city.checker().expect(self.client.user_id(), cause, effect, clock::now());
    }
}

/// How far the clock of the driver `index` is ahead; negative if it is behind.
fn clock_offset(config: &Config, index: usize) -> Result<chrono::Duration> {
    Ok(match index % 4 {
        1 => chrono::Duration::from_std(config.fast_clock)?,
        3 => -chrono::Duration::from_std(config.slow_clock)?,
        _ => chrono::Duration::zero(),
    })
}

/// A PIN of the same length with every digit changed.
fn wrong_pin(pin: &str) -> String {
    let change = |digit: char| match digit.to_digit(10) {
        Some(digit) => char::from_digit((digit + 1) % 10, 10).unwrap_or('0'),
        None => '0',
    };
    pin.chars().map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_pin_differs_and_has_the_same_length() {
        assert_eq!(wrong_pin("0945"), "1056");
        assert_eq!(wrong_pin("9999").len(), 4);
    }
}
