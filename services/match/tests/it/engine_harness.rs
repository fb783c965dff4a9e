//! An engine alone, driven by lines of text; the events that it publishes are read back as text. Names: d1 … are drivers,
//! p1 … passengers, r1 … requests, m1 … matches in the order in which they were found, k1 … rides. Places are kilometres
//! north of one point.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use geospatial::newest::Fix;
use matching::engine::{
    self, Driver, Engine, EngineRows, Input, Offer, OfferOutcome, Request, Ride, Rules, StepOutput,
};
use matching::positions::DriverPositions;
use matching::record::{Recorded, Recorder};
use streams::event::{
    CancelledRide, LocationUpdate, MatchAccepted, MatchFound, MatchRejected, Party, RejectReason, RideEvent,
    UserBeacon, UserFinder,
};
use streams::{Event, MatchId, Position, RequestId, RideId, RideStatus, Service, UserId, VehicleType};
use uuid::Uuid;

pub(crate) fn rules() -> Rules {
    Rules {
        offer_ttl: Duration::seconds(15),
        request_ttl: Duration::seconds(300),
        radius_m: 5_000.0,
        radius_max_m: 5_000.0,
        markets: Arc::new(pricing::market::Markets::world(Default::default())),
        policy: Default::default(),
        window: Duration::seconds(120),
        speed_mps: Some(7.0),
        roads: false,
        zone: matching::zones::Zone::ONLY,
    }
}

pub(crate) fn start_time() -> DateTime<Utc> {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// The id of a name such as `d12`: it holds the letter and the number.
pub(crate) fn uuid(name: &str) -> Uuid {
    let (kind, number) = name.split_at(1);
    let kind = u128::from(kind.as_bytes()[0]);
    Uuid::from_u128((kind << 64) | number.parse::<u128>().unwrap_or_else(|_| panic!("{name}: a letter and a number")))
}

pub(crate) fn name(id: Uuid) -> String {
    let number = id.as_u128() & u128::from(u64::MAX);
    format!("{}{number}", char::from((id.as_u128() >> 64) as u8))
}

pub(crate) fn user(name: &str) -> UserId {
    UserId(uuid(name))
}

pub(crate) fn km(north: f64) -> Position {
    Position { lat: 40.7 + north / 111.195, lng: -74.0 }
}

/// All rows of an engine.
pub(crate) fn rows(engine: &Engine) -> EngineRows {
    EngineRows {
        drivers: engine.drivers().values().cloned().collect(),
        requests: engine.requests().values().cloned().collect(),
        offers: engine.offers().values().cloned().collect(),
        rides: engine.rides().values().cloned().collect(),
    }
}

pub(crate) struct EngineHarness {
    pub(crate) engine: Engine,
    pub(crate) positions: DriverPositions,
    pub(crate) now: DateTime<Utc>,
    pub(crate) found: BTreeMap<MatchId, MatchFound>,
    pub(crate) rides: BTreeMap<RideId, MatchId>,
    pub(crate) stored: StoredRows,
    /// Until when a driver must not be offered a request.
    excluded: BTreeMap<(RequestId, UserId), DateTime<Utc>>,
    /// Matches that were found and, as far as events and rows say, have not ended.
    open: BTreeSet<MatchId>,
    next: u128,
    /// Records the steps, if a test wants it.
    pub(crate) recorder: Option<Recorder>,
    pub(crate) recorded: Recorded,
    /// Road times that the engine asked for, and that a test may answer.
    pub(crate) wanted: Vec<roads::Way>,
}

/// The rows as a store would have them after each step's changed rows are written.
#[derive(Default)]
pub(crate) struct StoredRows {
    pub(crate) drivers: BTreeMap<UserId, Driver>,
    pub(crate) requests: BTreeMap<RequestId, Request>,
    pub(crate) offers: BTreeMap<MatchId, Offer>,
    pub(crate) rides: BTreeMap<RideId, Ride>,
}

impl EngineHarness {
    pub(crate) fn new() -> Self {
        Self {
            engine: Engine::new(rules()),
            positions: DriverPositions::default(),
            now: start_time(),
            found: BTreeMap::new(),
            rides: BTreeMap::new(),
            stored: StoredRows::default(),
            excluded: BTreeMap::new(),
            open: BTreeSet::new(),
            next: 0,
            recorder: None,
            recorded: Recorded::default(),
            wanted: Vec::new(),
        }
    }

    /// One step, and the invariants after it.
    pub(crate) fn step(&mut self, inputs: &[Input<'_>]) -> StepOutput {
        for input in inputs {
            if let Input::Rejected(e) = input
                && e.reason == RejectReason::Declined
                && !self.engine.held_by(e.driver_id).is_some_and(Offer::is_accepted)
            {
                self.excluded.insert((e.request_id, e.driver_id), self.now + Duration::seconds(120));
            }
        }
        // As the handler does: the row says whether a ride has ended, because the engine may have forgotten it.
        let is_late = |i: &Input<'_>| match i {
            Input::Ride(e) if e.status == RideStatus::Pickup => {
                self.stored.rides.get(&e.ride_id).is_some_and(|r| r.ended_at.is_some())
            }
            _ => false,
        };
        let inputs: Vec<Input<'_>> = inputs.iter().filter(|i| !is_late(i)).copied().collect();
        let (next, mut match_ids) = (&mut self.next, Vec::new());
        let (engine, positions, now) = (&mut self.engine, &mut self.positions, self.now);
        let recording = self.recorder.as_mut().map(|r| r.before(engine, positions, &inputs, now));
        let output = engine::step(engine, &inputs, positions, now, &mut |_| {
            *next += 1;
            match_ids.push(MatchId(uuid(&format!("m{next}"))));
            match_ids[match_ids.len() - 1]
        });
        if let Some((recorder, recording)) = self.recorder.as_mut().zip(recording) {
            let recorded = recorder.after(recording, engine, positions, &inputs, now, (&match_ids, &output));
            self.recorded.entries.extend(recorded.entries);
            self.recorded.rules = recorded.rules.or(self.recorded.rules.take());
        }
        self.wanted.extend(&output.wanted);
        for event in &output.events {
            match event {
                Event::MatchFound(e) => {
                    let until = self.excluded.get(&(e.request_id, e.driver_id));
                    assert!(until.is_none_or(|until| *until <= self.now), "offered again: {e:?}");
                    assert_ne!(e.driver_id, e.passenger_id);
                    assert!(self.found.insert(e.match_id, e.clone()).is_none());
                    self.open.insert(e.match_id);
                }
                Event::MatchRejected(e) => {
                    assert!(
                        self.open.remove(&e.match_id) || !self.found.contains_key(&e.match_id),
                        "ended twice: {e:?}"
                    );
                    if e.reason == RejectReason::Expired {
                        let until = self.excluded.entry((e.request_id, e.driver_id)).or_insert(self.now);
                        *until = (*until).max(self.now + Duration::seconds(10));
                    }
                }
                other => panic!("match does not publish {other:?}"),
            }
        }
        let rows = &output.rows;
        self.stored.drivers.extend(rows.drivers.iter().map(|r| (r.user_id, r.clone())));
        self.stored.requests.extend(rows.requests.iter().map(|r| (r.request_id, r.clone())));
        self.stored.offers.extend(rows.offers.iter().map(|r| (r.match_id, r.clone())));
        self.stored.rides.extend(rows.rides.iter().map(|r| (r.ride_id, r.clone())));
        for offer in &rows.offers {
            // These ends come without an event of match: declined, superseded by rides, ridden, released.
            match offer.ended {
                Some(_) => self.open.remove(&offer.match_id),
                None => self.open.insert(offer.match_id),
            };
        }
        self.check();
        output
    }

    /// Invariants, checked without the engine's indexes.
    pub(crate) fn check(&self) {
        let (requests, offers, rides) = (self.engine.requests(), self.engine.offers(), self.engine.rides());
        let mut held = BTreeSet::new();
        for offer in offers.values().filter(|o| o.ended.is_none()) {
            for person in [offer.driver_id, offer.passenger_id] {
                assert!(held.insert(person), "{} is held twice", name(person.0));
                let ride = rides
                    .values()
                    .find(|r| r.ended_at.is_none() && (r.driver_id == person || r.passenger_id == person));
                // An accepted one holds both until rides has refused it.
                let is_allowed = ride.is_none_or(|ride| offer.is_accepted() && ride.match_id != offer.match_id);
                assert!(is_allowed, "{} is held by {offer:?} and locked by {ride:?}", name(person.0));
                assert!(self.engine.is_engaged(person));
            }
            assert!(offer.deadline() > self.now, "{offer:?} is overdue");
        }
        let mut searching = BTreeSet::new();
        for request in requests.values().filter(|r| r.ended_at.is_none()) {
            assert!(searching.insert(request.passenger_id), "two live requests of {}", name(request.passenger_id.0));
        }
        let live = offers.values().filter(|o| o.ended.is_none()).map(|o| o.match_id).collect();
        assert_eq!(self.open, live);
    }

    /// The engine is a cache of the written rows: nothing in it differs from them, and nothing live is missing.
    pub(crate) fn check_rows(&self) {
        fn same<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
            cached: &BTreeMap<K, V>,
            stored: &BTreeMap<K, V>,
            is_live: impl Fn(&V) -> bool,
        ) {
            for (id, row) in cached {
                assert_eq!(stored.get(id), Some(row), "{id:?}");
            }
            for (id, row) in stored.iter().filter(|(_, row)| is_live(row)) {
                assert!(cached.contains_key(id), "the engine has forgotten {row:?}, which is live");
            }
        }
        let rebuilt = Engine::from_rows(self.engine.rules().clone(), rows(&self.engine));
        assert!(rebuilt == self.engine, "the indexes are not those of the rows");
        same(self.engine.drivers(), &self.stored.drivers, |_| false);
        same(self.engine.requests(), &self.stored.requests, |r| r.ended_at.is_none());
        same(self.engine.offers(), &self.stored.offers, |o| o.ended.is_none());
        same(self.engine.rides(), &self.stored.rides, |r| r.ended_at.is_none());
        // The grid holds exactly those who are free.
        for vehicle in VehicleType::ALL {
            let near = self.positions.nearest(vehicle, &km(0.0), 10_000, 1e8, |_| true);
            let shown: BTreeSet<UserId> = near.iter().map(|n| n.id).collect();
            let is_free = |id: &UserId| self.engine.availability(*id) == Some(vehicle);
            assert_eq!(shown, self.engine.drivers().keys().copied().filter(is_free).collect());
        }
    }

    /// A tick each second, housekeeping each minute.
    pub(crate) fn pass_time(&mut self, seconds: u32) -> Vec<StepOutput> {
        (0..seconds)
            .map(|_| {
                self.now += Duration::seconds(1);
                let minute = self.now.timestamp() % 60 == 0;
                self.step(if minute { &[Input::Tick, Input::Housekeeping] } else { &[Input::Tick] })
            })
            .collect()
    }

    /// A position of a foreign producer, measured `ago` (negative), arrives now.
    pub(crate) fn position(&mut self, driver: &str, location: Position, ago: Duration) {
        let update = LocationUpdate {
            user_id: user(driver),
            ride_id: None,
            location,
            accuracy_m: None,
            speed_mps: None,
            heading_deg: None,
            recorded_at: self.now + ago,
            reception: None,
        };
        self.positions.record(update.user_id, &Fix::of(&update, self.now));
    }

    pub(crate) fn online(&self, driver: &str, vehicle_type: VehicleType, at: f64) -> UserBeacon {
        let user_id = user(driver);
        UserBeacon {
            user_id,
            active: true,
            vehicle_type,
            location: km(at),
            recorded_at: self.now,
            located_at: None,
            device: None,
        }
    }

    pub(crate) fn offline(&self, driver: &str) -> UserBeacon {
        UserBeacon { active: false, ..self.online(driver, VehicleType::Car, 0.0) }
    }

    pub(crate) fn search(&self, request: &str, passenger: &str, at: f64) -> UserFinder {
        UserFinder {
            request_id: RequestId(uuid(request)),
            user_id: user(passenger),
            active: true,
            pickup: km(at),
            dropoff: km(at + 5.0),
            vehicle_type: VehicleType::Car,
            recorded_at: self.now,
            continues: None,
            market_id: None,
            expires_at: None,
        }
    }

    pub(crate) fn end_of_search(&self, request: &str, passenger: &str) -> UserFinder {
        UserFinder { active: false, ..self.search(request, passenger, 0.0) }
    }

    pub(crate) fn accepted(&self, id: MatchId) -> MatchAccepted {
        let found = &self.found[&id];
        MatchAccepted {
            match_id: id,
            request_id: found.request_id,
            driver_id: found.driver_id,
            passenger_id: found.passenger_id,
            pickup: found.pickup,
            dropoff: found.dropoff,
            vehicle_type: found.vehicle_type,
            market_id: None,
            terms: None,
            accepted_at: self.now,
        }
    }

    pub(crate) fn rejected(&self, id: MatchId, reason: RejectReason) -> MatchRejected {
        let MatchFound { match_id, request_id, driver_id, passenger_id, .. } = self.found[&id];
        let rejected_at = MatchRejected::time(Service::Users, self.now);
        MatchRejected { match_id, request_id, driver_id, passenger_id, reason, rejected_at }
    }

    pub(crate) fn ride(&self, ride_id: RideId, found: &MatchFound, status: RideStatus) -> RideEvent {
        RideEvent {
            ride_id,
            match_id: found.match_id,
            driver_id: found.driver_id,
            passenger_id: found.passenger_id,
            version: 1,
            status,
            pickup: found.pickup,
            dropoff: found.dropoff,
            vehicle_type: found.vehicle_type,
            occurred_at: self.now,
            previous_hash: String::new(),
            hash: String::new(),
            by: None,
            search_continues: None,
            reason_code: None,
            note: None,
            reason: None,
            fee: None,
            distance_m: None,
            duration_s: None,
            fare: None,
            platform_fee: None,
            driver_payout: None,
            request_id: None,
            market_id: None,
            terms: None,
        }
    }

    /// One line: `d1 on 0.3`, `d1 on 0.3 van`, `d1 off`, `d1 at 2`, `r1 p1 find 0`, `r1 p1 end`, `m1 accept`, `m1 decline`,
    /// `m1 superseded`, `m1 expired`, `m1 cancelled` (by the end of its search), `k1 pickup m1`, `k1 completed m1`, `k1 cancelled m1`, `k1 abandoned m1` (by its driver), `r1 p1 continues k1 m1`, `15 s`. With a last word
    /// `@-7` the sender's clock says 7 s ago. Returns what was published.
    pub(crate) fn line(&mut self, line: &str) -> String {
        let (line, ago) = line.split_once(" @").unwrap_or((line, "0"));
        let ago = Duration::seconds(ago.parse().unwrap());
        let words: Vec<&str> = line.split(' ').collect();
        let steps = match words[..] {
            [n, "s"] => self.pass_time(n.parse().unwrap()),
            [d, "at", at] => {
                self.position(d, km(at.parse().unwrap()), ago);
                Vec::new()
            }
            [d, "off"] => {
                let e = UserBeacon { recorded_at: self.now + ago, ..self.offline(d) };
                vec![self.step(&[Input::Beacon(&e, self.now)])]
            }
            [d, "on", at, ref rest @ ..] => {
                let vehicle = rest.first().map_or(VehicleType::Car, |v| v.parse().unwrap());
                let e = self.online(d, vehicle, at.parse().unwrap());
                let e = UserBeacon { recorded_at: self.now + ago, ..e };
                vec![self.step(&[Input::Beacon(&e, self.now)])]
            }
            [r, p, "find", at] => {
                let e = self.search(r, p, at.parse().unwrap());
                vec![self.step(&[Input::Finder(&UserFinder { recorded_at: self.now + ago, ..e })])]
            }
            [r, p, "end"] => {
                let e = self.end_of_search(r, p);
                vec![self.step(&[Input::Finder(&UserFinder { recorded_at: self.now + ago, ..e })])]
            }
            [m, "accept"] => {
                let e = self.accepted(MatchId(uuid(m)));
                vec![self.step(&[Input::Accepted(&e)])]
            }
            [r, p, "continues", k, m] => {
                let driver_id = self.found[&MatchId(uuid(m))].driver_id;
                let ride = CancelledRide { ride_id: RideId(uuid(k)), match_id: MatchId(uuid(m)), driver_id };
                let e = UserFinder { continues: Some(ride), ..self.search(r, p, 0.0) };
                vec![self.step(&[Input::Finder(&UserFinder { recorded_at: self.now + ago, ..e })])]
            }
            [k, "abandoned", m] => {
                let found = self.found[&MatchId(uuid(m))].clone();
                let e = self.ride(RideId(uuid(k)), &found, RideStatus::Cancelled);
                let e = RideEvent { by: Some(Party::Driver), request_id: Some(found.request_id), ..e };
                vec![self.step(&[Input::Ride(&e)])]
            }
            [k, status, m] => {
                let found = self.found[&MatchId(uuid(m))].clone();
                let e = self.ride(RideId(uuid(k)), &found, status.parse().unwrap());
                vec![self.step(&[Input::Ride(&e)])]
            }
            [m, reason] => {
                let reason = match reason {
                    "decline" => RejectReason::Declined,
                    "superseded" => RejectReason::Superseded,
                    "expired" => RejectReason::Expired,
                    "cancelled" => RejectReason::Cancelled,
                    other => panic!("{other}?"),
                };
                let e = self.rejected(MatchId(uuid(m)), reason);
                vec![self.step(&[Input::Rejected(&e)])]
            }
            _ => panic!("{line}: no such line"),
        };
        self.check_rows();
        steps.iter().flat_map(|s| &s.events).map(text).collect::<Vec<_>>().join(", ")
    }

    /// Pairs of a line and what it publishes.
    pub(crate) fn play(&mut self, lines: &[(&str, &str)]) {
        for (n, (line, expected)) in lines.iter().enumerate() {
            assert_eq!(self.line(line), *expected, "line {}: {line}", n + 1);
        }
    }

    pub(crate) fn outcome(&self, m: &str) -> Option<OfferOutcome> {
        self.engine.offers().get(&MatchId(uuid(m))).and_then(|o| o.ended).map(|e| e.1)
    }

    pub(crate) fn is_locked(&self, who: &str) -> bool {
        self.engine.is_locked(user(who))
    }

    pub(crate) fn held_by(&self, who: &str) -> Option<String> {
        self.engine.held_by(user(who)).map(|o| name(o.match_id.0))
    }
}

fn text(event: &Event) -> String {
    match event {
        Event::MatchFound(e) => {
            format!("{} {} to {}", name(e.match_id.0), name(e.driver_id.0), name(e.request_id.0))
        }
        Event::MatchRejected(e) => format!("{} {}", name(e.match_id.0), format!("{:?}", e.reason).to_lowercase()),
        other => format!("{other:?}"),
    }
}
