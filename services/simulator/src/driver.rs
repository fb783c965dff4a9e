//! A simulated driver: goes where rides are wanted, answers offers, fetches and brings passengers. It owns its position
//! and its state; it learns of the passenger's PIN only at the pickup.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::checks::{Party, Status, Want};
use crate::city::{City, Phase};
use crate::client::{Client, Command, Input};
use crate::clock;
use crate::position::Position;
use crate::tally::Count;
use crate::track::{Point, Track};
use crate::wire::{Event, text, time};

/// Between two positions with a passenger in mind, and without.
const POINT_EVERY: Duration = Duration::from_secs(1);
const IDLE_POINT_EVERY: Duration = Duration::from_secs(3);
/// An answered offer that comes to nothing is forgotten after this; the checker has told by then.
const OUTCOME_LIMIT: Duration = Duration::from_secs(60);
/// A passenger who does not tell the PIN for so long is left behind.
const NO_SHOW: Duration = Duration::from_secs(60);
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
        self.point_at = now + if riding { POINT_EVERY } else { IDLE_POINT_EVERY };
        let mut point = self.point(&before);
        let faults = &self.city.config.faults;
        if driving_passenger && self.rng.random_bool(faults.jump) {
            let jump = Point { position: point.position.offset(70_000.0, 70_000.0), ..point.clone() };
            self.client.say("location.update", &jump.data());
            point.recorded_at += chrono::Duration::milliseconds(1);
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

    fn point(&self, before: &Position) -> Point {
        let moving = *before != self.position;
        Point {
            position: self.position,
            speed_mps: if moving { self.speed_mps } else { 0.0 },
            heading_deg: before.heading_deg(&self.position),
            recorded_at: clock::wall(),
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
        let at = now + Duration::from_millis(self.rng.random_range(20..600));
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
        if start.is_some() {
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
        self.point_at = now + POINT_EVERY;
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

    fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.event(&event),
            Input::Acked { command, data } => self.acked(&command, &data),
            Input::Refused { command, code } => self.refused(&command, &code),
            Input::Lost { command } => self.unanswered(&command),
            Input::Time => {}
        }
    }

    fn event(&mut self, event: &Event) {
        let now = clock::now();
        match event.kind.as_str() {
            "match.found" => self.offered(event, now),
            "match.rejected" => self.offer_ended(event),
            "ride.pickup" => self.picked_up(event, now),
            "ride.started" => {
                if let Some((trip, leg)) = self.in_ride(event.text("ride_id")) {
                    let target = trip.dropoff;
                    if matches!(leg, Leg::ToPickup | Leg::Handover { .. }) {
                        *leg = Leg::ToDropoff;
                        self.target = target;
                        self.moved_at = now;
                    }
                }
            }
            "ride.completed" | "ride.cancelled" => self.ride_ended(event),
            _ => {}
        }
    }

    fn in_ride(&mut self, ride_id: &str) -> Option<(&mut Trip, &mut Leg)> {
        match &mut self.state {
            State::Riding { trip, leg } if trip.ride_id == ride_id => Some((trip, leg)),
            _ => None,
        }
    }

    fn offered(&mut self, event: &Event, now: Instant) {
        self.city.tally().add(Count::Offers);
        let left = time(&event.data, "expires_at").map(|at| at - clock::wall());
        let left = left.and_then(|left| left.to_std().ok()).unwrap_or(Duration::ZERO).min(OUTCOME_LIMIT);
        let offer = Offer { match_id: event.text("match_id").to_owned(), expires: now + left };
        match self.state {
            State::Free => self.consider(offer, now),
            _ => self.later = Some(offer),
        }
    }

    fn offer_ended(&mut self, event: &Event) {
        let match_id = event.text("match_id");
        let count = match event.text("reason") {
            "declined" => Count::Declined,
            "expired" => Count::Expired,
            "superseded" => Count::Superseded,
            _ => Count::OffersCancelled,
        };
        self.city.tally().add(count);
        if self.later.as_ref().is_some_and(|offer| offer.match_id == match_id) {
            self.later = None;
        }
        let mine = match &self.state {
            State::Deciding { offer, .. } => offer.match_id == match_id,
            State::Answered { match_id: answered, .. } => answered == match_id,
            _ => false,
        };
        if mine {
            self.state = State::Free;
        }
    }

    fn picked_up(&mut self, event: &Event, now: Instant) {
        let ride_id = event.text("ride_id").to_owned();
        if self.over.contains(&ride_id) || self.in_ride(&ride_id).is_some() {
            return;
        }
        let place = |field: &str| event.data.get(field).and_then(|value| serde_json::from_value(value.clone()).ok());
        let (Some(pickup), Some(dropoff)) = (place("pickup"), place("dropoff")) else {
            let text = format!("ride {ride_id}: ride.pickup without `pickup` or `dropoff`");
            return self.city.checks().violation(text);
        };
        let faults = &self.city.config.faults;
        let cancels = self.rng.random_bool(faults.driver_cancel);
        let cancel_at = cancels.then(|| now + Duration::from_millis(self.rng.random_range(0..3_000)));
        let give_wrong_pin = self.rng.random_bool(faults.wrong_pin);
        let trip = Box::new(Trip { ride_id, pickup, dropoff, driven_m: 0.0, give_wrong_pin, cancel_at });
        self.target = trip.pickup;
        self.moved_at = now;
        self.state = State::Riding { trip, leg: Leg::ToPickup };
    }

    fn ride_ended(&mut self, event: &Event) {
        let ride_id = event.text("ride_id");
        if event.kind == "ride.cancelled" {
            self.city.tally().cancelled(event.text("by"));
        }
        if self.over.len() >= 16 {
            self.over.pop_front();
        }
        self.over.push_back(ride_id.to_owned());
        self.city.forget_pin(ride_id);
        let Some((trip, _)) = self.in_ride(ride_id) else { return };
        let driven_m = trip.driven_m;
        self.state = State::Free;
        self.target = self.position;
        if let Some(billed_m) = event.data.get("distance_m").and_then(Value::as_f64) {
            if driven_m > 0.0 {
                self.city.tally().billed_share.add(billed_m / driven_m);
            }
            // An estimate may follow streets, so twice is fair; a jump of 100 km is not.
            if billed_m > 2.0 * driven_m + 1_000.0 {
                let text = format!("ride {ride_id}: {billed_m:.0} m billed, {driven_m:.0} m driven");
                self.city.checks().violation(text);
            }
        }
    }

    fn expect(&self, why: &'static str, want: Want) {
        self.city.checks().acked(self.client.user_id(), why, want, clock::now());
    }

    fn acked(&mut self, command: &Command, data: &Value) {
        let ride_id = text(&command.data, "ride_id").to_owned();
        match command.kind {
            "match.accept" | "match.reject" => {
                let match_id = text(&command.data, "match_id");
                if text(data, "match_id") != match_id {
                    let text = format!("match {match_id}: {} acked for another match", command.kind);
                    self.city.checks().violation(text);
                }
                self.expect(command.kind, Want::OfferEnds(match_id.to_owned()));
            }
            "ride.start" => {
                if self.was_wrong(&command.id) {
                    self.city.checks().violation(format!("ride {ride_id}: started with a wrong PIN"));
                }
                self.expect("ride.start", Want::Reaches(ride_id, Status::Started));
            }
            "location.update" => self.parked(command),
            "ride.arrive" => self.expect("ride.arrive", Want::Reaches(ride_id, Status::Completed)),
            "ride.cancel" => self.expect("ride.cancel", Want::Reaches(ride_id, Status::Cancelled)),
            _ => {}
        }
    }

    /// Whether the PIN of this `ride.start` was wrong on purpose; the right one is given next. A right one stays under
    /// way: it is not given again. The answer may come after `ride.started`.
    fn was_wrong(&mut self, id: &str) -> bool {
        let wrong = self.wrong_starts.remove(id);
        if wrong && let State::Riding { leg: Leg::Handover { start, .. }, .. } = &mut self.state {
            start.take_if(|under_way| *under_way == id);
        }
        wrong
    }

    fn refused(&mut self, command: &Command, code: &str) {
        let ride_id = text(&command.data, "ride_id").to_owned();
        match command.kind {
            "match.accept" | "match.reject" => {
                // Too late: expired, or the passenger ended the search. The platform tells both.
                let match_id = text(&command.data, "match_id");
                let mine = matches!(&self.state, State::Answered { match_id: answered, .. } if answered == match_id);
                if mine {
                    self.state = State::Free;
                }
            }
            "ride.start" if self.was_wrong(&command.id) => self.city.tally().add(Count::WrongPins),
            // The ride must have ended meanwhile, else there is no cause.
            "ride.start" => self.expect("ride.start", Want::Ends(ride_id)),
            "ride.arrive" => self.expect("ride.arrive", Want::Ends(ride_id)),
            "location.update" | "beacon.update" => {
                let text = format!("{}: {} refused: {code}", self.client.user_id(), command.kind);
                self.city.checks().violation(text);
                self.parked(command);
            }
            _ => {}
        }
    }

    /// Says again what got no answer and still matters.
    fn unanswered(&mut self, command: &Command) {
        match (command.kind, &mut self.state) {
            ("ride.start", State::Riding { leg: Leg::Handover { start, .. }, .. }) => {
                self.wrong_starts.remove(&command.id);
                *start = None;
            }
            ("ride.arrive", State::Riding { leg: Leg::Arrived, .. }) => {
                self.client.command("ride.arrive", command.data.clone());
            }
            ("location.update", _) => self.parked(command),
            ("beacon.update", _) => self.active_on = 0,
            _ => {}
        }
    }
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
