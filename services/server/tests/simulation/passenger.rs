//! A passenger: wants a ride, sometimes no longer, tells the PIN to the driver who comes, and wants another.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Client, Command, Happened, at, place};
use crate::scene::Phase;

/// How often a passenger looks up.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// A passenger.
pub(crate) struct Passenger {
    client: Client,
    /// When the next ride is wanted.
    wants_at: Instant,
    /// Asked for and not answered yet.
    asking: bool,
    /// The search that is open, and when it is given up.
    search: Option<(String, Instant)>,
    /// The ride, and when it is cancelled, if so.
    ride: Option<(String, Option<Instant>)>,
    over: BTreeSet<String>,
    /// Searches that have ended: the end may be told before the beginning is acknowledged.
    ended: BTreeSet<String>,
    /// Asked in the probe, and was taken.
    probed: bool,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Passenger {
    pub(crate) fn new(mut client: Client) -> Self {
        let wants_at = Instant::now() + client.dice.millis(1_000, 15_000);
        let (over, ended) = (BTreeSet::new(), BTreeSet::new());
        Self { client, wants_at, asking: false, search: None, ride: None, over, ended, probed: false }
    }

    /// Rides for as long as it is polled.
    pub(crate) async fn live(mut self) {
        let mut look_at = Instant::now();
        loop {
            let with = match (self.client.is_settled(), &self.search, &self.ride) {
                (false, ..) => "a command".to_owned(),
                (_, Some((id, _)), _) => format!("the search {id}"),
                (_, _, Some((id, _))) => format!("the ride {id}"),
                _ => String::new(),
            };
            self.client.scene.busy(self.client.user, with);
            let ride = self.ride.as_ref().and_then(|(_, cancel_at)| *cancel_at);
            let search = self.search.as_ref().map(|(_, until)| *until);
            let until = ride.into_iter().chain(search).fold(look_at, Instant::min);
            match self.client.next(until).await {
                Happened::Event(subject, body) => self.hear(&subject, &body),
                Happened::Done(command, answer) => self.done(&command, &answer),
                Happened::Refused(command, code) => self.refused(&command, &code),
                Happened::Time => {
                    look_at = Instant::now() + LOOK_EVERY;
                    self.tick();
                }
            }
        }
    }

    fn want_again(&mut self) {
        self.wants_at = Instant::now() + self.client.dice.millis(2_000, 20_000);
    }

    fn hear(&mut self, subject: &str, body: &Value) {
        let ride = text(&body["ride_id"]);
        match subject {
            "user.finder" if body["active"] == false => {
                let ended = text(&body["request_id"]);
                if self.search.take_if(|(id, _)| *id == ended).is_some() {
                    self.want_again();
                }
                self.ended.insert(ended);
            }
            "ride.pickup" => {
                self.client.scene.log().pins.insert(ride.clone(), text(&body["pin"]));
                self.search = None;
                if !self.over.contains(&ride) {
                    let wait = self.client.dice.millis(500, 30_000);
                    let cancel_at = self.client.dice.percent(10).then(|| Instant::now() + wait);
                    self.ride = Some((ride, cancel_at));
                }
            }
            "ride.completed" | "ride.cancelled" => {
                if self.ride.take_if(|(id, _)| *id == ride).is_some() {
                    self.want_again();
                }
                self.over.insert(ride);
            }
            _ => {}
        }
    }

    fn done(&mut self, command: &Command, answer: &Value) {
        if command.kind != "finder.update" {
            return;
        }
        self.asking = false;
        let request = text(&answer["request_id"]);
        if self.client.scene.phase() == Phase::Probe && command.data["active"] == true {
            self.probed = true;
            self.client.scene.asked.lock().unwrap().insert(self.client.user);
        }
        if command.data["active"] == false {
            self.search = None;
            self.want_again();
        } else if !self.ended.contains(&request) && self.ride.is_none() {
            let dice = &mut self.client.dice;
            let wait = if dice.percent(12) { dice.millis(500, 9_000) } else { dice.millis(50_000, 100_000) };
            self.search = Some((request, Instant::now() + wait));
        }
    }

    fn refused(&mut self, command: &Command, code: &str) {
        match (command.kind, code) {
            // The end of the last ride has not reached the gateway yet.
            ("finder.update", "ride_live") => {
                self.asking = false;
                self.wants_at = Instant::now() + Duration::from_secs(4);
            }
            ("ride.cancel", "ride_ended" | "ride_arrived") => {}
            _ => {
                let what = format!("{}: {} {} was refused: {code}", self.client.user, command.kind, command.data);
                self.client.scene.log().wrong(what);
            }
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let phase = self.client.scene.phase();
        if let Some((id, cancel_at)) = &mut self.ride
            && cancel_at.take_if(|at| now >= *at).is_some()
        {
            let ride = id.clone();
            self.client.ask("ride.cancel", json!({"ride_id": ride, "reason": "no longer"}));
        }
        let ends = matches!(phase, Phase::Closing | Phase::Closed);
        if let Some((_, until)) = &mut self.search
            && (now >= *until || ends)
        {
            *until = now + Duration::from_secs(20);
            self.client.ask("finder.update", json!({"active": false}));
        }
        let wants = match phase {
            Phase::Open => now >= self.wants_at,
            Phase::Probe => !self.probed,
            Phase::Closing | Phase::Closed => false,
        };
        if wants && !self.asking && self.search.is_none() && self.ride.is_none() {
            self.asking = true;
            let (pickup, dropoff) = (at(place(&mut self.client.dice)), at(place(&mut self.client.dice)));
            let data = json!({"active": true, "pickup": pickup, "dropoff": dropoff, "vehicle_type": "car"});
            self.client.ask("finder.update", data);
        }
    }
}
