//! A simulated passenger: asks for rides, waits, tells the driver the PIN, pays; sometimes changes its mind. It owns its
//! search and its ride, and knows of the driver only what the platform tells.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::checker::{Party, Status, Want};
use crate::city::{City, Phase};
use crate::client::{Client, Command, Input};
use crate::clock;
use crate::driver::vehicle_type;
use crate::frame::{Event, text};
use crate::requests::Dealt;
use crate::statistics::Count;

/// At least so often a passenger looks around.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After the end of a search an answer to an offer of it may still be on the way.
const LINGER: Duration = Duration::from_millis(1_500);
/// The longest rest between two rides, real time.
const LONGEST_REST: Duration = Duration::from_secs(3);

#[derive(Debug)]
enum State {
    Resting {
        until: Instant,
    },
    /// Has a request, and waits for its time.
    Waiting {
        dealt: Dealt,
    },
    Searching {
        search: Search,
    },
    /// Has ended the search; not before `until` (none: not before the ack) is the next.
    Ending {
        until: Option<Instant>,
    },
    Riding {
        ride_id: String,
        cancel_at: Option<Instant>,
    },
    /// Wants no more rides.
    Done,
}

#[derive(Debug)]
struct Search {
    begun: Instant,
    data: Value,
    found: bool,
    cancel_at: Option<Instant>,
    give_up: Instant,
}

/// A simulated passenger.
#[derive(Debug)]
pub(crate) struct Passenger {
    city: Arc<City>,
    client: Client,
    rng: StdRng,
    index: usize,
    state: State,
    /// ETA by match, of the search under way.
    offers: BTreeMap<String, f64>,
    /// Matches of searches that are over, newest last: a ride of one comes too late.
    old_offers: VecDeque<String>,
    /// Rides that are over, newest last.
    over: VecDeque<String>,
    /// Commands that must be refused, with what they tried.
    trespasses: HashMap<String, String>,
    /// The `finder.update`s that end a search.
    ends: HashSet<String>,
    busy: bool,
    riding: bool,
    idle: bool,
}

impl Passenger {
    /// Signs in, rides until the city's day is over.
    ///
    /// # Errors
    /// The sign-in failed.
    pub(crate) async fn live(city: Arc<City>, index: usize) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(city.config.seed.wrapping_mul(0x1_0001).wrapping_add(index as u64));
        let account = city.sign_in(index, Party::Passenger).await?;
        let until = clock::now() + Duration::from_millis(rng.random_range(0..500));
        let mut passenger = Self {
            client: Client::new(Arc::clone(&city), account, index),
            rng,
            index: index - city.config.drivers,
            state: State::Resting { until },
            offers: BTreeMap::new(),
            old_offers: VecDeque::new(),
            over: VecDeque::new(),
            trespasses: HashMap::new(),
            ends: HashSet::new(),
            busy: false,
            riding: false,
            idle: false,
            city,
        };
        while passenger.city.phase() != Phase::Over {
            let wake = passenger.act(clock::now());
            passenger.show();
            let input = passenger.client.next(wake).await;
            passenger.take(input);
            passenger.show();
        }
        passenger.client.close().await;
        Ok(())
    }

    /// Does what is due. Returns when to look again.
    fn act(&mut self, now: Instant) -> Instant {
        let closing = self.city.phase() != Phase::Open;
        let look = now + LOOK_EVERY;
        match &mut self.state {
            State::Resting { .. } | State::Waiting { .. } if closing => self.state = State::Done,
            State::Resting { until } if *until > now => return look.min(*until),
            State::Resting { .. } => match self.city.deal().next(now) {
                Some(dealt) => self.state = State::Waiting { dealt },
                None => {
                    self.idle = true;
                    self.city.idle.change(1);
                    self.state = State::Done;
                }
            },
            State::Waiting { dealt } if dealt.at > now => return look.min(dealt.at),
            State::Waiting { dealt } => {
                let dealt = dealt.clone();
                self.search(&dealt, now);
            }
            State::Searching { search } => {
                let cancels = search.cancel_at.is_some_and(|at| at <= now);
                if cancels || closing {
                    self.city.tally().add(Count::SearchesCancelled);
                    self.end_search();
                } else if search.give_up <= now {
                    self.city.tally().add(Count::SearchesUnserved);
                    self.end_search();
                } else {
                    return search.cancel_at.unwrap_or(look).min(look);
                }
            }
            State::Ending { until } => {
                if until.is_some_and(|until| until <= now) {
                    self.rest(now);
                }
            }
            State::Riding { ride_id, cancel_at } => match *cancel_at {
                Some(at) if at <= now => {
                    *cancel_at = None;
                    let data = json!({"ride_id": ride_id, "reason": "changed my mind"});
                    self.client.command("ride.cancel", data);
                }
                Some(at) => return look.min(at),
                None => {}
            },
            State::Done => {}
        }
        look
    }

    /// Keeps the city's gauges.
    fn show(&mut self) {
        let riding = matches!(self.state, State::Riding { .. });
        let busy = riding || matches!(self.state, State::Searching { .. } | State::Ending { .. });
        self.city.busy.change(i64::from(busy) - i64::from(self.busy));
        self.city.riding.change(i64::from(riding) - i64::from(self.riding));
        (self.busy, self.riding) = (busy, riding);
    }

    fn rest(&mut self, now: Instant) {
        let rest_s = self.rng.random_range(10.0..60.0) / self.city.config.speed;
        let rest = Duration::try_from_secs_f64(rest_s).unwrap_or(LONGEST_REST).min(LONGEST_REST);
        self.state = if self.idle { State::Done } else { State::Resting { until: now + rest } };
    }

    fn search(&mut self, dealt: &Dealt, now: Instant) {
        // The same mix as the drivers'.
        let vehicle_type = vehicle_type(self.index, self.city.config.drivers);
        let request = &dealt.request;
        let data = json!({
            "active": true,
            "pickup": request.pickup,
            "dropoff": request.dropoff,
            "vehicle_type": vehicle_type,
        });
        self.client.command("finder.update", data.clone());
        self.city.tally().add(Count::SearchesBegun);
        let cancels = self.rng.random_bool(self.city.config.faults.cancel_search);
        let cancel_at = cancels.then(|| now + Duration::from_millis(self.rng.random_range(0..1_500)));
        let give_up = now + self.city.config.patience;
        let search = Search { begun: now, data, found: false, cancel_at, give_up };
        self.state = State::Searching { search };
    }

    /// Ends the search under way.
    fn end_search(&mut self) {
        let State::Searching { search } = &mut self.state else { return };
        let mut data = search.data.take();
        data["active"] = json!(false);
        let id = self.client.command("finder.update", data);
        self.ends.insert(id);
        self.state = State::Ending { until: None };
        self.forget_offers();
    }

    fn forget_offers(&mut self) {
        self.old_offers.extend(std::mem::take(&mut self.offers).into_keys());
        while self.old_offers.len() > 32 {
            self.old_offers.pop_front();
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.event(&event),
            Input::Acked { command, data } => self.acked(&command, &data),
            Input::Refused { command, .. } => self.refused(&command),
            Input::Lost { command } => {
                self.trespasses.remove(&command.id);
                self.search_answered(&command, false);
            }
            Input::Time => {}
        }
    }

    fn event(&mut self, event: &Event) {
        let now = clock::now();
        match event.kind.as_str() {
            "match.found" => self.found(event, now),
            "ride.pickup" => self.picked_up(event, now),
            "ride.completed" => {
                self.city.tally().add(Count::Completed);
                self.ride_ended(event.text("ride_id"), now);
            }
            "ride.cancelled" => self.ride_ended(event.text("ride_id"), now),
            _ => {}
        }
    }

    fn found(&mut self, event: &Event, now: Instant) {
        let match_id = event.text("match_id").to_owned();
        let State::Searching { search } = &mut self.state else {
            self.old_offers.push_back(match_id);
            return;
        };
        let eta_s = event.data.get("pickup_eta_s").and_then(Value::as_f64).unwrap_or(0.0);
        self.offers.insert(match_id, eta_s);
        let first = !std::mem::replace(&mut search.found, true);
        if first && self.client.connected_since().is_some_and(|since| since <= search.begun) {
            let waited = now.duration_since(search.begun);
            self.city.tally().took("request → match.found (wait)", waited);
        }
    }

    fn picked_up(&mut self, event: &Event, now: Instant) {
        let ride_id = event.text("ride_id").to_owned();
        let match_id = event.text("match_id");
        if self.over.contains(&ride_id) {
            return;
        }
        self.city.tally().add(Count::Pickups);
        self.city.tell_pin(&ride_id, event.text("pin"));
        let late = self.old_offers.iter().any(|old| old == match_id);
        let wanted = match &self.state {
            State::Searching { search } if !late => {
                if self.client.connected_since().is_some_and(|since| since <= search.begun) {
                    let waited = now.duration_since(search.begun);
                    self.city.tally().took("request → ride.pickup (wait)", waited);
                }
                if let Some(eta_s) = self.offers.get(match_id) {
                    self.city.tally().pickup_eta_s.add(*eta_s);
                }
                true
            }
            // A ride of a search that was ended: it is too late for that, so the ride is cancelled.
            State::Searching { .. } => {
                self.end_search();
                false
            }
            _ => false,
        };
        self.forget_offers();
        let cancels = self.rng.random_bool(self.city.config.faults.cancel_ride);
        let cancel_at = match (wanted, cancels) {
            (true, false) => None,
            (true, true) => Some(now + Duration::from_millis(self.rng.random_range(0..10_000))),
            (false, _) => Some(now),
        };
        if self.rng.random_bool(self.city.config.faults.forbidden_command) {
            self.trespass(&ride_id, match_id, event.text("pin"));
        }
        self.state = State::Riding { ride_id, cancel_at };
    }

    /// Tries something that is not this passenger's to do.
    fn trespass(&mut self, ride_id: &str, match_id: &str, pin: &str) {
        let others = self.city.checks().ride_of_others(self.client.user_id(), ride_id);
        let (kind, data) = match (self.rng.random_range(0..5), others) {
            (0, Some(other)) => ("ride.cancel", json!({"ride_id": other, "reason": "not mine"})),
            (1, Some(other)) => ("ride.arrive", json!({"ride_id": other})),
            (2, _) => ("match.accept", json!({"match_id": match_id})),
            (3, _) => ("ride.start", json!({"ride_id": ride_id, "pin": pin})),
            _ => ("no.such", json!({"ride_id": ride_id})),
        };
        let tried = format!("{kind} {data}");
        let id = self.client.command(kind, data);
        self.city.tally().add(Count::Trespasses);
        self.trespasses.insert(id, tried);
    }

    fn ride_ended(&mut self, ride_id: &str, now: Instant) {
        if self.over.len() >= 16 {
            self.over.pop_front();
        }
        self.over.push_back(ride_id.to_owned());
        if matches!(&self.state, State::Riding { ride_id: live, .. } if live == ride_id) {
            self.rest(now);
        }
    }

    fn acked(&mut self, command: &Command, data: &Value) {
        let now = clock::now();
        let user_id = self.client.user_id();
        if let Some(tried) = self.trespasses.remove(&command.id) {
            return self.city.checks().violation(format!("passenger {user_id} could {tried}"));
        }
        match command.kind {
            "finder.update" => {
                let request_id = text(data, "request_id").to_owned();
                // The end of a search that is over already, as a repeat finds it, names none.
                if request_id.is_empty() && !self.ends.contains(&command.id) {
                    let text = format!("passenger {user_id}: finder.update acked without `request_id`");
                    self.city.checks().violation(text);
                } else if !self.ends.contains(&command.id) {
                    self.city.checks().acked(user_id, "finder.update", Want::Search(request_id), now);
                }
                self.search_answered(command, true);
            }
            "ride.cancel" => {
                let ride_id = text(&command.data, "ride_id").to_owned();
                let want = Want::Reaches(ride_id, Status::Cancelled);
                self.city.checks().acked(user_id, "ride.cancel", want, now);
            }
            _ => {}
        }
    }

    fn refused(&mut self, command: &Command) {
        if self.trespasses.remove(&command.id).is_none() {
            self.search_answered(command, false);
        }
    }

    /// The beginning or the end of a search was answered.
    fn search_answered(&mut self, command: &Command, begun: bool) {
        if command.kind != "finder.update" {
            return;
        }
        let now = clock::now();
        let ends = self.ends.remove(&command.id);
        match &mut self.state {
            State::Ending { until } if ends => *until = Some(now + LINGER),
            State::Searching { .. } if !ends && !begun => {
                self.state = State::Ending { until: Some(now + LINGER) };
                self.forget_offers();
            }
            _ => {}
        }
    }
}
