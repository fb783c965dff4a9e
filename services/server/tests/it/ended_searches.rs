//! An acked end of a search is final: accept against end, many times, at every distance of the two; with match at work, and with
//! match stopped. `scripts/race-ends` runs more of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use platform::World;
use serde_json::{Value, json};
use streams::Service;

use crate::harness::client::{Person, Socket};
use crate::harness::nats::Nats;
use crate::harness::ride::at;
use crate::harness::running::{Running, Shape, shared, start};

/// One passenger makes only so many races: who ends searches again and again waits for the next offer.
const RACES_EACH: usize = 2;
/// Pairs that race at the same time, each in a place of its own.
const LANES: usize = 8;
/// A passenger and a driver act at most so long after the start of their race.
const DELAY_MAX_MS: u64 = 24;

/// Tests sign in hundreds of people from one address within seconds.
const NO_LIMITS: &str = "codes_address=1000000/1000,codes_prefix=1000000/1000,codes_all=1000000/1000,\
                         http_address=1000000/10000,commands=1000000/1000";

/// What became of the races.
#[derive(Debug, Default)]
struct Races {
    /// The end was acked; the driver's acceptance was refused.
    end_first: usize,
    /// Both were acked: the end won over an acceptance on its way.
    end_over_acceptance: usize,
    /// The end was refused: the search had become a ride.
    rides: usize,
}

impl Races {
    fn add(self, other: &Self) -> Self {
        Self {
            end_first: self.end_first + other.end_first,
            end_over_acceptance: self.end_over_acceptance + other.end_over_acceptance,
            rides: self.rides + other.rides,
        }
    }
}

fn races() -> usize {
    std::env::var("RACES").map_or(48, |text| text.parse().unwrap())
}

struct Lane {
    driver: Socket,
    place: f64,
    races: Races,
    ended: BTreeSet<String>,
    ridden: BTreeSet<String>,
    events: Vec<Value>,
}

impl Lane {
    async fn new(person: &Person, n: usize) -> Self {
        let mut driver = person.connect(None).await;
        let place = 10.0 + n as f64;
        driver.ack("beacon.update", json!({"active": true, "location": at(place, 20.0)})).await;
        let (races, ended, ridden) = Default::default();
        Self { driver, place, races, ended, ridden, events: Vec::new() }
    }

    /// Searches and waits for the offer; returns the match.
    async fn offer(&mut self, passenger: &mut Socket) -> Value {
        let trip = json!({"active": true, "pickup": at(self.place, 20.0), "dropoff": at(self.place + 0.02, 20.0), "vehicle_type": "car"});
        // A driver silent for a minute is offered nothing.
        let position = json!({"location": at(self.place, 20.0), "recorded_at": World::real().now().to_rfc3339()});
        self.driver.ack("location.update", position).await;
        let request = passenger.ack("finder.update", trip).await["request_id"].clone();
        loop {
            let found = self.driver.event("match.found").await;
            self.events.push(found.clone());
            if found["data"]["request_id"] == request {
                return found["data"]["match_id"].clone();
            }
        }
    }

    /// Both act, each after some time; then whoever can ends what is left.
    async fn race(&mut self, passenger: &mut Socket, match_id: &Value, delays: (u64, u64)) {
        let driver = &mut self.driver;
        let (end, accept) = tokio::join!(
            async {
                tokio::time::sleep(Duration::from_millis(delays.0)).await;
                passenger.command("finder.update", json!({"active": false})).await
            },
            async {
                tokio::time::sleep(Duration::from_millis(delays.1)).await;
                driver.command("match.accept", json!({"match_id": match_id})).await
            }
        );
        let id = match_id.as_str().unwrap().to_owned();
        let is_acked = |frame: &Value| frame["type"] == "ack";
        if is_acked(&end) {
            assert_ne!(end["data"]["request_id"], Value::Null, "{end}: nothing else has ended it");
            if is_acked(&accept) {
                self.races.end_over_acceptance += 1;
            } else {
                assert_eq!(accept["error"]["code"], "offer_closed", "{accept}");
                self.races.end_first += 1;
            }
            self.ended.insert(id);
        } else {
            assert_eq!((&end["error"]["code"], is_acked(&accept)), (&json!("ride_live"), true), "{end} {accept}");
            self.races.rides += 1;
            self.ridden.insert(id);
            let pickup = self.driver.event("ride.pickup").await;
            let cancel = json!({"ride_id": pickup["data"]["ride_id"], "reason": "as the search could not end"});
            self.events.push(pickup);
            passenger.ack("ride.cancel", cancel).await;
            self.events.push(self.driver.event("ride.cancelled").await);
        }
    }

    /// All that the driver received, once nothing is on its way.
    async fn finish(mut self, person: &Person) -> Races {
        drop(self.driver);
        let mut again = person.connect(Some(0)).await;
        // The answer comes after everything that was in the mailbox.
        let newest = again.welcome["last_seq"].as_u64().unwrap();
        while again.last_seq < newest {
            let event = again.any_event().await;
            self.events.push(event);
        }
        let mut rejections: BTreeMap<String, BTreeMap<u64, String>> = BTreeMap::new();
        for event in &self.events {
            let id = event["data"]["match_id"].as_str().unwrap_or_default().to_owned();
            match event["type"].as_str().unwrap() {
                "ride.pickup" => assert!(self.ridden.contains(&id), "a ride of an ended search: {event}"),
                "match.rejected" => {
                    let reason = event["data"]["reason"].as_str().unwrap().to_owned();
                    rejections.entry(id).or_default().insert(event["seq"].as_u64().unwrap(), reason);
                }
                _ => {}
            }
        }
        for id in &self.ended {
            let reasons: Vec<&String> = rejections.get(id).into_iter().flat_map(BTreeMap::values).collect();
            assert_eq!(reasons, ["cancelled"], "match {id}: the driver receives it once");
        }
        for id in &self.ridden {
            assert_eq!(rejections.get(id), None, "match {id} became a ride");
        }
        self.races
    }
}

/// Different for each race, the same in each run.
fn delays(n: usize) -> (u64, u64) {
    let n = n as u64;
    let (long, short) = (n * 7 % (DELAY_MAX_MS + 1), n * 11 % (DELAY_MAX_MS / 2 + 1));
    if n.is_multiple_of(3) { (short, long) } else { (long, short) }
}

async fn people(running: &Running) -> (Vec<Person>, Vec<Person>) {
    let (addr, passengers) = (running.addr(), races().div_ceil(RACES_EACH));
    let drivers = join_all((0..LANES).map(|n| Person::driver(addr, n as u32))).await;
    let mut all = Vec::new();
    for some in (0..passengers).collect::<Vec<_>>().chunks(16) {
        all.extend(join_all(some.iter().map(|n| Person::passenger(addr, 1_000 + *n as u32))).await);
    }
    (drivers, all)
}

fn judge(what: &str, races: &Races) {
    println!("{what}: {races:?}");
    assert!(races.end_first > 0 && races.end_over_acceptance + races.rides > 0, "one side won every race: {races:?}");
}

/// Everything at work.
async fn an_acked_end_is_final(shape: Shape) {
    let running = Running::start(shape, &["--limits", NO_LIMITS]).await;
    let (drivers, passengers) = people(&running).await;
    let lanes = drivers.iter().enumerate().map(|(n, person)| async move { (Lane::new(person, n).await, person) });
    let mut lanes = join_all(lanes).await;
    let each = passengers.len().div_ceil(LANES);
    let work = lanes.iter_mut().zip(passengers.chunks(each)).enumerate();
    join_all(work.map(|(l, ((lane, _), passengers))| async move {
        for (n, person) in passengers.iter().enumerate() {
            let mut socket = person.connect(None).await;
            for race in 0..RACES_EACH {
                let match_id = lane.offer(&mut socket).await;
                lane.race(&mut socket, &match_id, delays((l * each + n) * RACES_EACH + race)).await;
            }
        }
    }))
    .await;
    running.settled().await;
    let mut all = Races::default();
    for (lane, person) in lanes {
        all = all.add(&lane.finish(person).await);
    }
    judge(&format!("{shape:?}"), &all);
    running.stop().await;
}

crate::harness::on_both_shapes!(an_acked_end_is_final);

/// match makes the offers and is stopped; the races are run; then match goes on.
#[tokio::test]
async fn an_acked_end_is_final_while_match_is_away() {
    let nats = Nats::start().await;
    let mut settings = shared(&nats, &["--limits", NO_LIMITS]).await;
    let mut apps = Vec::new();
    for (n, services) in
        [&[Service::Users, Service::Rides, Service::Location][..], &[Service::Match]].iter().enumerate()
    {
        settings.pod_id = Some(format!("pod-{n}"));
        apps.extend(start(&settings, services).await);
    }
    let matching = apps.pop().unwrap();
    let mut running = Running::of(apps, nats, settings.clone()).await;
    let (drivers, passengers) = people(&running).await;
    let lanes = drivers.iter().enumerate().map(|(n, person)| async move { (Lane::new(person, n).await, person) });
    let mut lanes = join_all(lanes).await;
    let mut offers = Vec::new();
    for ((lane, _), person) in lanes.iter_mut().zip(&passengers) {
        let mut socket = person.connect(None).await;
        let match_id = lane.offer(&mut socket).await;
        offers.push((socket, match_id));
    }
    assert!(matching.stop().await);
    join_all(
        lanes
            .iter_mut()
            .zip(&mut offers)
            .enumerate()
            .map(|(n, ((lane, _), (socket, match_id)))| lane.race(socket, match_id, delays(n * 5))),
    )
    .await;
    settings.pod_id = Some("pod-9".to_owned());
    running.apps.extend(start(&settings, &[Service::Match]).await);
    running.settled().await;
    let mut all = Races::default();
    for (lane, person) in lanes {
        all = all.add(&lane.finish(person).await);
    }
    println!("match away: {all:?}");
    running.stop().await;
}
