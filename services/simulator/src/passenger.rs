//! A simulated passenger: searches, waits, tells the driver the PIN, rides; sometimes cancels. It knows of the driver only what
//! the platform sends.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::checker::{Effect, Party, Status};
use crate::city::{City, Phase, vehicle_type};
use crate::client::{Client, Command, Input};
use crate::clock;
use crate::frame::{Event, text};
use crate::requests::ScheduledRequest;
use crate::statistics::Counter;

/// The most time between two looks at what is due.
const TICK_MAX: Duration = Duration::from_millis(500);
/// After the end of a search was refused, its ride comes: `ride_live`. Without an answer it may come.
const SEARCH_END_GRACE: Duration = Duration::from_millis(1_500);
/// The longest rest between two searches, real time.
const REST_MAX: Duration = Duration::from_secs(3);
/// The most matches of ended searches that are stored.
const OLD_MATCHES_MAX: usize = 32;
/// The most ended rides that are stored, to recognise late events.
const ENDED_RIDES_MAX: usize = 16;

#[derive(Debug)]
enum State {
    Resting {
        until: Instant,
    },
    Waiting {
        request: ScheduledRequest,
    },
    Searching {
        search: Search,
    },
    /// The end of the search was sent. The passenger goes on at `until`, which is set when it is answered.
    EndingSearch {
        until: Option<Instant>,
    },
    Riding {
        ride_id: String,
        cancel_at: Option<Instant>,
        /// The passenger does not want a ride any more.
        leaves: bool,
    },
    /// Makes no more requests.
    Done,
}

#[derive(Debug)]
struct Search {
    began_at: Instant,
    /// The `data` of its `finder.update`.
    data: Value,
    has_offer: bool,
    cancel_at: Option<Instant>,
    give_up_at: Instant,
}

#[derive(Debug)]
pub(crate) struct Passenger {
    city: Arc<City>,
    client: Client,
    rng: StdRng,
    /// Among the passengers.
    index: usize,
    state: State,
    /// `pickup_eta_s` by match, of the present search.
    offers: BTreeMap<String, f64>,
    /// Matches of searches that were to end, oldest first: a ride of one was refused to end, and is cancelled. (No ride may come
    /// of a search whose end was acked: the checker sees to that.)
    old_matches: VecDeque<String>,
    /// The last rides that have ended, oldest first.
    ended_rides: VecDeque<String>,
    /// Commands that the platform must refuse: what was tried, by command id.
    forbidden: HashMap<String, String>,
    /// Ids of the `finder.update`s that end a search.
    search_ends: HashSet<String>,
    /// Counted in the city's gauges of the same names.
    busy: bool,
    riding: bool,
    without_request: bool,
}

impl Passenger {
    /// Signs in, and searches and rides until the phase is over.
    ///
    /// # Errors
    /// The sign-in failed.
    pub(crate) async fn run(city: Arc<City>, index: usize) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(city.config.seed.wrapping_mul(0x1_0001).wrapping_add(index as u64));
        let account = city.sign_in(index, Party::Passenger).await?;
        let until = clock::now() + Duration::from_millis(rng.random_range(0..500));
        let mut passenger = Self {
            client: Client::new(Arc::clone(&city), account, index),
            rng,
            index: index - city.config.drivers,
            state: State::Resting { until },
            offers: BTreeMap::new(),
            old_matches: VecDeque::new(),
            ended_rides: VecDeque::new(),
            forbidden: HashMap::new(),
            search_ends: HashSet::new(),
            busy: false,
            riding: false,
            without_request: false,
            city,
        };
        while passenger.city.phase() != Phase::Over {
            let deadline = passenger.act(clock::now());
            passenger.update_gauges();
            let input = passenger.client.next(deadline).await;
            passenger.on_input(input);
            passenger.update_gauges();
        }
        passenger.client.close().await;
        Ok(())
    }

    /// Does what is due by the clock. Returns when to look again.
    fn act(&mut self, now: Instant) -> Instant {
        let closing = self.city.phase() != Phase::Open;
        let no_later = now + TICK_MAX;
        match &mut self.state {
            State::Resting { .. } | State::Waiting { .. } if closing => self.state = State::Done,
            State::Resting { until } if *until > now => return no_later.min(*until),
            State::Resting { .. } => match self.city.schedule().next(now, self.index) {
                Some(request) => self.state = State::Waiting { request },
                None => {
                    self.without_request = true;
                    self.city.without_request.change(1);
                    self.state = State::Done;
                }
            },
            State::Waiting { request } if request.not_before > now => return no_later.min(request.not_before),
            State::Waiting { request } => {
                let request = request.clone();
                self.begin_search(&request, now);
            }
            State::Searching { search } => {
                let cancels = search.cancel_at.is_some_and(|at| at <= now);
                if cancels || closing {
                    self.city.statistics().increment(Counter::SearchesCancelled);
                    self.end_search();
                } else if search.give_up_at <= now {
                    self.city.statistics().increment(Counter::SearchesUnserved);
                    self.end_search();
                } else {
                    return search.cancel_at.unwrap_or(no_later).min(no_later);
                }
            }
            State::EndingSearch { until } => {
                if until.is_some_and(|until| until <= now) {
                    self.rest(now);
                }
            }
            State::Riding { ride_id, cancel_at, .. } => match *cancel_at {
                Some(at) if at <= now => {
                    *cancel_at = None;
                    let data = json!({"ride_id": ride_id, "reason": "changed my mind"});
                    self.client.send("ride.cancel", data);
                }
                Some(at) => return no_later.min(at),
                None => {}
            },
            State::Done => {}
        }
        no_later
    }

    fn update_gauges(&mut self) {
        let riding = matches!(self.state, State::Riding { .. });
        let busy = riding || matches!(self.state, State::Searching { .. } | State::EndingSearch { .. });
        self.city.busy.change(i64::from(busy) - i64::from(self.busy));
        self.city.riding.change(i64::from(riding) - i64::from(self.riding));
        (self.busy, self.riding) = (busy, riding);
    }

    fn rest(&mut self, now: Instant) {
        let rest_s = self.rng.random_range(10.0..60.0) / self.city.config.speed;
        let rest = Duration::try_from_secs_f64(rest_s).unwrap_or(REST_MAX).min(REST_MAX);
        self.state = if self.without_request { State::Done } else { State::Resting { until: now + rest } };
    }

    fn begin_search(&mut self, scheduled: &ScheduledRequest, now: Instant) {
        let request = &scheduled.request;
        let data = json!({
            "active": true,
            "pickup": request.pickup,
            "dropoff": request.dropoff,
            "vehicle_type": vehicle_type(self.index, self.city.config.drivers),
        });
        self.client.send("finder.update", data.clone());
        self.city.statistics().increment(Counter::SearchesBegun);
        let cancels = self.rng.random_bool(self.city.config.faults.cancel_search);
        let cancel_at = cancels.then(|| now + Duration::from_millis(self.rng.random_range(0..1_500)));
        let give_up_at = now + self.city.config.patience;
        let search = Search { began_at: now, data, has_offer: false, cancel_at, give_up_at };
        self.state = State::Searching { search };
    }

    fn end_search(&mut self) {
        let State::Searching { search } = &mut self.state else { return };
        let mut data = search.data.take();
        data["active"] = json!(false);
        let id = self.client.send("finder.update", data);
        self.search_ends.insert(id);
        self.state = State::EndingSearch { until: None };
        self.retire_offers();
    }

    /// The search is over: its matches are old.
    fn retire_offers(&mut self) {
        self.old_matches.extend(std::mem::take(&mut self.offers).into_keys());
        while self.old_matches.len() > OLD_MATCHES_MAX {
            self.old_matches.pop_front();
        }
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.on_event(&event),
            Input::Acked { command, data } => self.on_ack(&command, &data),
            Input::Refused { command, .. } => {
                if self.forbidden.remove(&command.id).is_none() {
                    self.on_search_failed(&command);
                }
            }
            Input::Unanswered { command } => {
                self.forbidden.remove(&command.id);
                self.on_search_failed(&command);
            }
            Input::Rebuilt { state } => self.rebuild(&state),
            Input::Deadline => {}
        }
    }

    /// The app was installed again: what it shows is what the platform's state says. What the passenger wants is as before.
    fn rebuild(&mut self, state: &Value) {
        let now = clock::now();
        self.offers.clear();
        self.old_matches.clear();
        self.ended_rides.clear();
        self.forbidden.clear();
        self.search_ends.clear();
        let leaves = match &self.state {
            State::Resting { .. } | State::Waiting { .. } | State::Done | State::EndingSearch { .. } => true,
            State::Searching { search } => search.cancel_at.is_some(),
            State::Riding { leaves, .. } => *leaves,
        };
        let cancel_at = leaves.then_some(now);
        let part = |name: &str| state.get(name).filter(|part| !part.is_null());
        if let Some(ride) = part("ride") {
            let ride_id = text(ride, "ride_id").to_owned();
            if let Some(Value::String(pin)) = ride.get("pin") {
                self.city.share_pin(&ride_id, pin);
            }
            self.state = State::Riding { ride_id, cancel_at, leaves };
        } else if let Some(search) = part("search") {
            let mut data = json!({"active": true});
            for field in ["pickup", "dropoff", "vehicle_type"] {
                data[field] = search.get(field).cloned().unwrap_or_default();
            }
            let give_up_at = now + self.city.config.patience;
            // Its offers are not measured: the search began before.
            let search = Search { began_at: now, data, has_offer: true, cancel_at, give_up_at };
            self.state = State::Searching { search };
            if let Some(offer) = part("offer") {
                let eta_s = offer.get("pickup_eta_s").and_then(Value::as_f64).unwrap_or(0.0);
                self.offers.insert(text(offer, "match_id").to_owned(), eta_s);
            }
        } else if !matches!(self.state, State::Resting { .. } | State::Waiting { .. } | State::Done) {
            self.rest(now);
        }
    }

    fn on_event(&mut self, event: &Event) {
        let now = clock::now();
        match event.kind.as_str() {
            "match.found" => self.on_match_found(event, now),
            "ride.pickup" => self.on_pickup(event, now),
            "ride.completed" => {
                self.city.statistics().completed(&event.data);
                self.on_ride_end(event.text("ride_id"), now);
            }
            "ride.cancelled" => self.on_cancelled(event, now),
            _ => {}
        }
    }

    fn on_match_found(&mut self, event: &Event, now: Instant) {
        let match_id = event.text("match_id").to_owned();
        let State::Searching { search } = &mut self.state else {
            self.old_matches.push_back(match_id);
            return;
        };
        let eta_s = event.data.get("pickup_eta_s").and_then(Value::as_f64).unwrap_or(0.0);
        self.offers.insert(match_id, eta_s);
        let first = !std::mem::replace(&mut search.has_offer, true);
        let began_at = search.began_at;
        if first {
            self.record_wait("request → match.found (wait)", began_at, now);
        }
    }

    /// Records the time since the search began, unless the connection was lost since.
    fn record_wait(&self, name: &'static str, began_at: Instant, now: Instant) {
        if self.client.connected_since().is_some_and(|since| since <= began_at) {
            self.city.statistics().latency(name, now.duration_since(began_at));
        }
    }

    fn on_pickup(&mut self, event: &Event, now: Instant) {
        let ride_id = event.text("ride_id").to_owned();
        let match_id = event.text("match_id");
        if self.ended_rides.contains(&ride_id) {
            return;
        }
        self.city.share_pin(&ride_id, event.text("pin"));
        let old = self.old_matches.iter().any(|id| id == match_id);
        let wanted = match &self.state {
            State::Searching { search } if !old => {
                self.record_wait("request → ride.pickup (wait)", search.began_at, now);
                if let Some(eta_s) = self.offers.get(match_id) {
                    self.city.statistics().pickup_eta_s.add(*eta_s);
                }
                true
            }
            // A ride of the search before this one.
            State::Searching { .. } => {
                self.end_search();
                false
            }
            _ => false,
        };
        self.retire_offers();
        let cancels = self.rng.random_bool(self.city.config.faults.cancel_ride);
        let cancel_at = match (wanted, cancels) {
            (true, false) => None,
            (true, true) => Some(now + Duration::from_millis(self.rng.random_range(0..10_000))),
            (false, _) => Some(now),
        };
        if self.rng.random_bool(self.city.config.faults.forbidden_command) {
            self.send_forbidden(&ride_id, match_id, event.text("pin"));
        }
        self.state = State::Riding { ride_id, cancel_at, leaves: cancel_at.is_some() };
    }

    /// Sends a command that the platform must refuse: for another's ride, one of the driver's, or of an unknown type.
    fn send_forbidden(&mut self, ride_id: &str, match_id: &str, pin: &str) {
        let others_ride = self.city.checker().ride_without(self.client.user_id(), ride_id);
        let (kind, data) = match (self.rng.random_range(0..5), others_ride) {
            (0, Some(other)) => ("ride.cancel", json!({"ride_id": other, "reason": "not mine"})),
            (1, Some(other)) => ("ride.arrive", json!({"ride_id": other})),
            (2, _) => ("match.accept", json!({"match_id": match_id})),
            (3, _) => ("ride.start", json!({"ride_id": ride_id, "pin": pin})),
            _ => ("no.such", json!({"ride_id": ride_id})),
        };
        let tried = format!("{kind} {data}");
        let id = self.client.send(kind, data);
        self.city.statistics().increment(Counter::ForbiddenCommands);
        self.forbidden.insert(id, tried);
    }

    /// After the driver's cancellation the search may go on: the passenger waits for another driver, or ends it.
    fn on_cancelled(&mut self, event: &Event, now: Instant) {
        let ride_id = event.text("ride_id");
        let mine = match &self.state {
            State::Riding { ride_id: live, leaves, .. } if live == ride_id => Some(*leaves),
            _ => None,
        };
        self.on_ride_end(ride_id, now);
        let goes_on = event.data.get("search_continues") == Some(&Value::Bool(true));
        let Some(leaves) = mine.filter(|_| goes_on) else { return };
        let [pickup, dropoff, vehicle_type] =
            ["pickup", "dropoff", "vehicle_type"].map(|field| event.data.get(field).cloned().unwrap_or(Value::Null));
        let data = json!({"active": true, "pickup": pickup, "dropoff": dropoff, "vehicle_type": vehicle_type});
        let cancels = leaves || self.rng.random_bool(self.city.config.faults.cancel_search);
        let cancel_at = cancels.then(|| now + Duration::from_millis(self.rng.random_range(0..1_500)));
        let give_up_at = now + self.city.config.patience;
        // Its offers are not measured: the search began long ago.
        let search = Search { began_at: now, data, has_offer: true, cancel_at, give_up_at };
        self.state = State::Searching { search };
    }

    fn on_ride_end(&mut self, ride_id: &str, now: Instant) {
        if self.ended_rides.len() >= ENDED_RIDES_MAX {
            self.ended_rides.pop_front();
        }
        self.ended_rides.push_back(ride_id.to_owned());
        if matches!(&self.state, State::Riding { ride_id: live, .. } if live == ride_id) {
            self.rest(now);
        }
    }

    fn on_ack(&mut self, command: &Command, data: &Value) {
        if let Some(tried) = self.forbidden.remove(&command.id) {
            return self.city.checker().violation(format!("passenger {} could {tried}", self.client.user_id()));
        }
        match command.kind {
            "finder.update" if self.search_ends.remove(&command.id) => {
                // Without an id there was no search to end: it had expired, or its ride is over.
                let request_id = text(data, "request_id");
                if !request_id.is_empty() {
                    self.city.checker().search_ended(request_id);
                }
                if let State::EndingSearch { until } = &mut self.state {
                    *until = Some(clock::now());
                }
            }
            "finder.update" => {
                let request_id = text(data, "request_id").to_owned();
                if request_id.is_empty() {
                    let text = format!("passenger {}: finder.update acked without `request_id`", self.client.user_id());
                    self.city.checker().violation(text);
                } else {
                    self.expect("finder.update", Effect::Search { request_id });
                }
            }
            "ride.cancel" => {
                let ride_id = text(&command.data, "ride_id").to_owned();
                self.expect("ride.cancel", Effect::RideReaches { ride_id, status: Status::Cancelled });
            }
            _ => {}
        }
    }

    /// A command was refused or given up. A search that could not begin is over.
    fn on_search_failed(&mut self, command: &Command) {
        if command.kind != "finder.update" {
            return;
        }
        if self.search_ends.remove(&command.id) {
            if let State::EndingSearch { until } = &mut self.state {
                *until = Some(clock::now() + SEARCH_END_GRACE);
            }
        } else if matches!(self.state, State::Searching { .. }) {
            self.state = State::EndingSearch { until: Some(clock::now() + SEARCH_END_GRACE) };
            self.retire_offers();
        }
    }

    fn expect(&self, cause: &'static str, effect: Effect) {
        self.city.checker().expect(self.client.user_id(), cause, effect, clock::now());
    }
}
