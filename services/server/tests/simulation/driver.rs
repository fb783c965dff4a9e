//! A driver: is online, answers offers sooner, later or not at all, and drives the rides that come of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Client, Command, Happened, at, place};
use crate::scene::Phase;

/// How often a driver says to be there.
const BEACON_EVERY: Duration = Duration::from_secs(20);
/// A passenger who does not tell the PIN for so long is left behind.
const NO_SHOW: Duration = Duration::from_secs(45);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leg {
    Fetching,
    Driving,
    Arrived,
}

#[derive(Debug)]
struct Trip {
    leg: Leg,
    pickup: (f64, f64),
    dropoff: (f64, f64),
    began: Instant,
    /// When to do the next thing; none while an answer or the end is awaited.
    next: Option<Instant>,
}

/// A driver.
pub(crate) struct Driver {
    client: Client,
    place: (f64, f64),
    active: bool,
    beacon_at: Instant,
    /// The offer to answer, when, and how.
    offer: Option<(String, Instant, bool)>,
    trips: BTreeMap<String, Trip>,
    over: BTreeSet<String>,
}

fn position(value: &Value) -> (f64, f64) {
    (value["lat"].as_f64().unwrap_or_default(), value["lng"].as_f64().unwrap_or_default())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Driver {
    pub(crate) fn new(mut client: Client) -> Self {
        let place = place(&mut client.dice);
        let (beacon_at, trips, over) = (Instant::now(), BTreeMap::new(), BTreeSet::new());
        Self { client, place, active: false, beacon_at, offer: None, trips, over }
    }

    /// Drives for as long as it is polled.
    pub(crate) async fn live(mut self) {
        loop {
            let with = match (self.client.is_settled(), &self.offer, self.trips.keys().next()) {
                (false, ..) => "a command".to_owned(),
                (_, Some((id, ..)), _) => format!("the offer {id}"),
                (_, _, Some(id)) => format!("the ride {id}"),
                _ => String::new(),
            };
            self.client.scene.busy(self.client.user, with);
            let trips = self.trips.values().filter_map(|trip| trip.next);
            let until = trips.chain(self.offer.as_ref().map(|(_, at, _)| *at)).fold(self.beacon_at, Instant::min);
            match self.client.next(until).await {
                Happened::Event(subject, body) => self.hear(&subject, &body),
                Happened::Done(command, _) => self.done(&command),
                Happened::Refused(command, code) => self.refused(&command, &code),
                Happened::Time => self.tick(),
            }
        }
    }

    fn hear(&mut self, subject: &str, body: &Value) {
        let now = Instant::now();
        if body["driver_id"] != self.client.user.to_string() {
            return;
        }
        let ride = text(&body["ride_id"]);
        match subject {
            "match.found" if self.client.scene.phase() >= Phase::Probe => {
                self.client.scene.offered.lock().unwrap().insert(self.client.user);
            }
            "match.found" if self.offer.is_none() && self.trips.is_empty() => {
                let dice = &mut self.client.dice;
                let wait = if dice.percent(70) { dice.millis(300, 4_000) } else { dice.millis(4_000, 16_000) };
                let answer = dice.below(100);
                if answer < 90 {
                    self.offer = Some((text(&body["match_id"]), now + wait, answer < 78));
                }
            }
            "match.rejected" => {
                let ended = text(&body["match_id"]);
                self.offer.take_if(|(id, ..)| *id == ended);
            }
            "ride.pickup" if !self.over.contains(&ride) => {
                let next = Some(now + self.client.dice.millis(1_000, 12_000));
                let (pickup, dropoff) = (position(&body["pickup"]), position(&body["dropoff"]));
                self.trips.insert(ride, Trip { leg: Leg::Fetching, pickup, dropoff, began: now, next });
            }
            "ride.completed" | "ride.cancelled" => {
                self.trips.remove(&ride);
                self.over.insert(ride);
            }
            _ => {}
        }
    }

    fn done(&mut self, command: &Command) {
        let now = Instant::now();
        let wait = self.client.dice.millis(3_000, 20_000);
        let Some(trip) = self.trips.get_mut(&text(&command.data["ride_id"])) else { return };
        match command.kind {
            "ride.start" => (trip.leg, trip.next) = (Leg::Driving, Some(now + wait)),
            "ride.arrive" => (trip.leg, trip.next) = (Leg::Arrived, None),
            _ => {}
        }
        if command.kind == "ride.start" {
            trip.began = now;
        }
    }

    fn refused(&mut self, command: &Command, code: &str) {
        let again = Some(Instant::now() + self.client.dice.millis(2_000, 8_000));
        let ride = text(&command.data["ride_id"]);
        match (command.kind, code) {
            ("ride.start", "wrong_pin" | "pin_locked") => {
                if let Some(trip) = self.trips.get_mut(&ride) {
                    trip.next = again;
                }
            }
            // The passenger cancelled first, or it arrived: its last event is on the way, or has come.
            ("ride.start" | "ride.arrive" | "ride.cancel", "ride_ended" | "ride_arrived") => {}
            ("match.accept" | "match.reject", "offer_expired" | "offer_closed") => {}
            // A clock that is too far ahead.
            ("location.update", "invalid_field") if self.client.skew.num_seconds() > 55 => {}
            _ => {
                let what = format!("{}: {} {} was refused: {code}", self.client.user, command.kind, command.data);
                self.client.scene.log().wrong(what);
            }
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.beacon_at {
            self.beacon_at = now + BEACON_EVERY;
            let rests = self.active && self.client.scene.phase() == Phase::Open && self.client.dice.percent(4);
            self.active = !rests;
            if rests {
                self.beacon_at = now + self.client.dice.millis(3_000, 12_000);
            }
            self.client.ask("beacon.update", json!({"active": self.active, "location": at(self.place)}));
        }
        if let Some((id, _, yes)) = self.offer.take_if(|(_, at, _)| now >= *at) {
            if yes {
                self.client.ask("match.accept", json!({"match_id": id}));
            } else {
                self.client.ask("match.reject", json!({"match_id": id, "reason": "a \"long\" lunch"}));
            }
        }
        let due: Vec<String> = self
            .trips
            .iter()
            .filter(|(_, trip)| trip.next.is_some_and(|at| now >= at))
            .map(|(id, _)| id.clone())
            .collect();
        for ride in due {
            self.go_on(&ride, now);
        }
    }

    fn go_on(&mut self, ride: &str, now: Instant) {
        let Some(trip) = self.trips.get_mut(ride) else { return };
        trip.next = None;
        let (leg, began) = (trip.leg, trip.began);
        let gives_up = self.client.dice.percent(4);
        match leg {
            Leg::Fetching => {
                let pin = self.client.scene.log().pins.get(ride).cloned();
                match pin {
                    Some(_) if gives_up => {
                        self.client.ask("ride.cancel", json!({"ride_id": ride, "reason": "a flat tyre"}))
                    }
                    Some(pin) => {
                        let wrong = if pin == "0000" { "1111" } else { "0000" };
                        let pin = if self.client.dice.percent(8) { wrong } else { &pin };
                        self.client.ask("ride.start", json!({"ride_id": ride, "pin": pin}));
                    }
                    None if now >= began + NO_SHOW => {
                        self.client.ask("ride.cancel", json!({"ride_id": ride, "reason": "nobody came"}));
                    }
                    None => trip.next = Some(now + Duration::from_secs(2)),
                }
            }
            Leg::Driving if gives_up => self.client.ask("ride.cancel", json!({"ride_id": ride, "reason": "no fuel"})),
            Leg::Driving => {
                let (from, to) = (trip.pickup, trip.dropoff);
                self.place = to;
                let points = self.points(from, to, began, now);
                self.client.ask("location.update", json!({"points": points}));
                self.client.ask("ride.arrive", json!({"ride_id": ride}));
            }
            Leg::Arrived => {}
        }
    }

    /// Points from the start until now, by the driver's own clock.
    fn points(&self, from: (f64, f64), to: (f64, f64), began: Instant, now: Instant) -> Vec<Value> {
        let end = self.client.now();
        let took = chrono::Duration::from_std(now - began).unwrap_or_default();
        (0..=4)
            .map(|n| {
                let part = f64::from(n) / 4.0;
                let recorded_at = end - took * (4 - n) / 4;
                let place = (from.0 + (to.0 - from.0) * part, from.1 + (to.1 - from.1) * part);
                json!({"location": at(place), "recorded_at": recorded_at.to_rfc3339()})
            })
            .collect()
    }
}
