//! What the record costs: the same minutes of a city with it and without it. `cargo run --release -p matching --example record_cost -- DRIVERS`
//!
//! Each driver sends a position every four seconds; every second one in 250 drivers is asked for; rides last five minutes.

use std::collections::VecDeque;

use chrono::{DateTime, Duration, Utc};
use geospatial::newest::Fix;
use matching::Config;
use matching::engine::{self, Engine, Input, Rules};
use matching::positions::DriverPositions;
use matching::record::{Entry, Kind, Recorder};
use streams::event::{LocationUpdate, MatchAccepted, MatchFound, RideEvent, UserBeacon, UserFinder};
use streams::{Event, MatchId, Position, RequestId, RideId, RideStatus, UserId, VehicleType};
use tokio::time::Instant;
use uuid::Uuid;

const SECONDS: u64 = 330;

struct City {
    engine: Engine,
    positions: DriverPositions,
    recorder: Option<Recorder>,
    entries: Vec<Entry>,
    now: DateTime<Utc>,
    matches: u64,
    steps: u64,
}

fn id(kind: u64, n: u64) -> Uuid {
    // As random as the ids of the service.
    Uuid::from_u64_pair(kind.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n, n.wrapping_mul(0xbf58_476d_1ce4_e5b9))
}

/// With seven decimals, as phones have it.
fn place(n: u64, second: u64) -> Position {
    let at = |k: u64| ((n.wrapping_mul(k) >> 7) % 2_000_000 + second * 900) as f64;
    let seven = |degrees: f64| (degrees * 1e7).round() / 1e7;
    Position { lat: seven(40.6 + at(0x9e37_79b9) / 1e7), lng: seven(-74.1 + at(0xbf58_476d) / 1e7) }
}

impl City {
    fn new(record: Option<Recorder>) -> Self {
        let markets = Default::default();
        let config = Config { markets, ..Config::default() };
        let rules = Rules {
            offer_ttl: Duration::seconds(config.offer_ttl_s.into()),
            request_ttl: Duration::seconds(config.request_ttl_s.into()),
            radius_m: config.radius_m,
            radius_max_m: config.radius_max_m,
            markets: config.markets.get(),
            policy: config.policy,
            window: Duration::milliseconds(config.window_ms.into()),
            speed_mps: None,
            roads: false,
            zone: matching::zones::Zone::ONLY,
        };
        let now = DateTime::UNIX_EPOCH + Duration::days(20_000);
        let (positions, entries) = Default::default();
        Self { engine: Engine::new(rules), positions, recorder: record, entries, now, matches: 0, steps: 0 }
    }

    fn step(&mut self, inputs: &[Input<'_>]) -> Vec<MatchFound> {
        let Self { engine, positions, recorder, matches, now, .. } = self;
        let recording = recorder.as_mut().map(|r| r.before(engine, positions, inputs, *now));
        let mut ids = Vec::new();
        let output = engine::step(engine, inputs, positions, *now, &mut |_| {
            *matches += 1;
            ids.push(MatchId(id(4, *matches)));
            ids[ids.len() - 1]
        });
        if let Some((recorder, recording)) = recorder.as_mut().zip(recording) {
            let recorded = recorder.after(recording, engine, positions, inputs, *now, (&ids, &output));
            self.entries.extend(recorded.entries);
        }
        self.steps += 1;
        let found = |event| match event {
            Event::MatchFound(e) => Some(e),
            _ => None,
        };
        output.events.into_iter().filter_map(found).collect()
    }

    fn run(&mut self, drivers: u64) {
        for n in 0..drivers {
            let beacon = UserBeacon {
                user_id: UserId(id(1, n)),
                active: true,
                vehicle_type: VehicleType::Car,
                location: place(n, 0),
                recorded_at: self.now,
                located_at: None,
                device: Some("a".to_owned()),
            };
            self.step(&[Input::Beacon(&beacon, self.now)]);
        }
        let mut rides: VecDeque<(u64, MatchFound)> = VecDeque::new();
        let mut passenger = 0;
        for second in 1..=SECONDS {
            self.now += Duration::milliseconds(1_000);
            for n in (second % 4..drivers).step_by(4) {
                let update = LocationUpdate {
                    user_id: UserId(id(1, n)),
                    ride_id: None,
                    location: place(n, second),
                    accuracy_m: None,
                    speed_mps: None,
                    heading_deg: None,
                    recorded_at: self.now,
                    reception: None,
                };
                let received_at = self.now - Duration::microseconds(i64::try_from(n % 1_000_000).unwrap_or(0));
                self.positions.record(update.user_id, &Fix::of(&update, received_at));
            }
            self.step(&[Input::Tick]);
            while rides.front().is_some_and(|(ends, _)| *ends <= second) {
                let Some((_, found)) = rides.pop_front() else { break };
                self.step(&[Input::Ride(&ride(&found, RideStatus::Completed, self.now))]);
            }
            for _ in 0..drivers / 250 {
                passenger += 1;
                let finder = UserFinder {
                    request_id: RequestId(id(3, passenger)),
                    user_id: UserId(id(2, passenger)),
                    active: true,
                    pickup: place(passenger, 0),
                    dropoff: place(passenger + 7, 0),
                    vehicle_type: VehicleType::Car,
                    recorded_at: self.now,
                    continues: None,
                    market_id: None,
                    expires_at: None,
                };
                for found in self.step(&[Input::Finder(&finder)]) {
                    let accepted = MatchAccepted {
                        match_id: found.match_id,
                        request_id: found.request_id,
                        driver_id: found.driver_id,
                        passenger_id: found.passenger_id,
                        pickup: found.pickup,
                        dropoff: found.dropoff,
                        vehicle_type: found.vehicle_type,
                        market_id: None,
                        terms: None,
                        accepted_at: self.now,
                    };
                    self.step(&[Input::Accepted(&accepted)]);
                    self.step(&[Input::Ride(&ride(&found, RideStatus::Pickup, self.now))]);
                    rides.push_back((second + 300, found));
                }
            }
        }
    }
}

fn ride(found: &MatchFound, status: RideStatus, occurred_at: DateTime<Utc>) -> RideEvent {
    RideEvent {
        ride_id: RideId(id(5, found.match_id.0.as_u64_pair().1)),
        match_id: found.match_id,
        driver_id: found.driver_id,
        passenger_id: found.passenger_id,
        version: 1,
        status,
        pickup: found.pickup,
        dropoff: found.dropoff,
        vehicle_type: found.vehicle_type,
        occurred_at,
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
        request_id: Some(found.request_id),
        market_id: None,
        terms: None,
    }
}

fn main() {
    let drivers = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2_000);
    let timed = |recorder| {
        let began = Instant::now();
        let mut city = City::new(recorder);
        city.run(drivers);
        (city, began.elapsed())
    };
    let (_, without) = timed(None);
    let (city, with) = timed(Some(Recorder::new(1)));
    let bytes = |kind| city.entries.iter().filter(|e| e.kind == kind).map(|e| e.bytes.len()).sum::<usize>() as f64;
    let (steps, snapshots) = (bytes(Kind::Step), bytes(Kind::Snapshot));
    let count = |kind| city.entries.iter().filter(|e| e.kind == kind).count() as f64;
    let positions = (drivers * SECONDS / 4) as f64;
    println!("{drivers} drivers, {SECONDS} s, {} steps, {} matches", city.steps, city.matches);
    println!("without the record {without:?}, with it {with:?}");
    println!(
        "recorded steps {} of {:.0} bytes (of {positions} positions, {:.1} bytes each if they were all), snapshots {} of {:.0} bytes",
        count(Kind::Step),
        steps / count(Kind::Step),
        steps / positions,
        count(Kind::Snapshot),
        snapshots / count(Kind::Snapshot),
    );
    println!("a day: {:.2} GB", (steps + snapshots) / SECONDS as f64 * 86_400.0 / 1e9);
}
