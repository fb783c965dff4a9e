//! What a driver makes of events and answers. It changes the driver's state; what is due by the clock is done elsewhere.

use std::time::Duration;

use rand::RngExt;
use serde_json::Value;
use tokio::time::Instant;

use super::{AHEAD_MAX, Driver, LATE_MAX, Leg, OUTCOME_LIMIT, Offer, PIN_LOCK, State, Trip};
use crate::checker::{Status, Want};
use crate::client::{Command, Input};
use crate::clock;
use crate::frame::{Event, text, time};
use crate::statistics::Count;

impl Driver {
    pub(super) fn take(&mut self, input: Input) {
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
        let left = time(&event.data, "expires_at").map(|at| at - self.city.wall.now());
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
        let trip =
            Box::new(Trip { ride_id, pickup, dropoff, driven_m: 0.0, give_wrong_pin, locked_until: None, cancel_at });
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
            // A clock that is ahead by what the contract allows takes some of the way to the pickup for a part of the ride.
            let before_m = self.clock_off.as_seconds_f64().clamp(0.0, AHEAD_MAX.as_seconds_f64()) * self.speed_mps;
            // An estimate may follow streets, so twice is fair; a jump of 100 km is not.
            if billed_m > 2.0 * driven_m + 1_000.0 + before_m {
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
            "location.update" => {
                if self.clock_off > AHEAD_MAX + LATE_MAX {
                    let text = format!("{}: a position of the future was taken", self.client.user_id());
                    self.city.checks().violation(text);
                }
                self.parked(command);
            }
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
            "ride.start" if code == "pin_locked" => {
                if let Some((trip, Leg::Handover { start, .. })) = self.in_ride(&ride_id) {
                    trip.locked_until = Some(clock::now() + PIN_LOCK);
                    *start = None;
                }
            }
            // The ride must have ended meanwhile, else there is no cause.
            "ride.start" => self.expect("ride.start", Want::Ends(ride_id)),
            "ride.arrive" => self.expect("ride.arrive", Want::Ends(ride_id)),
            // What its clock says is too far ahead: the ride must do without.
            "location.update" if code == "invalid_field" && self.clock_off >= AHEAD_MAX => self.parked(command),
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
