//! The record of three zones that decide beside each other, with hand-overs, conflicts and changes of owners in it: it is run again, a
//! decision of it is explained, and another policy is tried on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use matching::record::explain::Target;
use matching::record::query::{self, Entries};
use matching::record::{Kind, Replay};
use matching::zones::Partition;
use matching::{Config, Policy};
use streams::event::RejectReason;
use streams::{Event, MatchId, RequestId, RideStatus};

use crate::engine_harness::{name, start_time, uuid};
use crate::service_harness::ServiceHarness;

/// Decisions of a run. A run of 10,000 takes minutes.
const DECISIONS: usize = 400;
const DRIVERS: u32 = 40;
const PASSENGERS: u32 = 30;
/// Messages of one person are so far apart.
const ROUND: Duration = Duration::from_millis(1_600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passenger {
    Idle,
    Searches(u32),
    Accepted(MatchId),
    Rides(MatchId, u32),
}

/// Draws numbers below a bound, always the same.
struct Draw(u32);

impl Draw {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) % bound
    }

    /// A place on the line, in km.
    fn place(&mut self) -> f64 {
        f64::from(self.below(100)) / 20.0
    }
}

struct City {
    harness: ServiceHarness,
    draw: Draw,
    passengers: BTreeMap<u32, Passenger>,
    /// Requests whose pickup moved.
    moved: BTreeSet<u32>,
    found: Vec<MatchId>,
    requests: u32,
    rides: u32,
}

impl City {
    async fn start() -> Self {
        let partition = Partition::new(3, 700);
        let mut harness = ServiceHarness::start(Config { partition, offer_ttl_s: 5, ..Config::default() }).await;
        harness.start_process("b").await;
        let passengers = (0..PASSENGERS).map(|n| (n, Passenger::Idle)).collect();
        let (moved, found) = Default::default();
        let mut city = Self { harness, draw: Draw(7), passengers, moved, found, requests: 0, rides: 0 };
        for driver in 0..DRIVERS {
            city.online(driver).await;
        }
        city
    }

    async fn online(&mut self, driver: u32) {
        let at = self.draw.place();
        self.harness.online(&format!("d{driver}"), at).await;
    }

    async fn round(&mut self) {
        for n in 0..PASSENGERS {
            let chance = self.draw.below(100);
            match self.passengers[&n] {
                Passenger::Idle if chance < 50 => {
                    self.requests += 1;
                    let at = self.draw.place();
                    self.harness.search_at(&format!("r{}", self.requests), &format!("p{n}"), at).await;
                    self.passengers.insert(n, Passenger::Searches(self.requests));
                }
                Passenger::Searches(request) if chance < 10 => {
                    let at = self.draw.place();
                    self.harness.search_at(&format!("r{request}"), &format!("p{n}"), at).await;
                    self.moved.insert(request);
                }
                Passenger::Searches(request) if chance < 12 => {
                    self.harness.end_search(&format!("r{request}"), &format!("p{n}")).await;
                    self.passengers.insert(n, Passenger::Idle);
                }
                Passenger::Accepted(of) => {
                    self.rides += 1;
                    let found = self.harness.events.found[&of].clone();
                    let event = self.harness.ride(&format!("k{}", self.rides), &found, RideStatus::Pickup);
                    self.harness.publish(event).await;
                    self.passengers.insert(n, Passenger::Rides(of, self.rides));
                }
                Passenger::Rides(of, ride) if chance < 20 => {
                    let found = self.harness.events.found[&of].clone();
                    let ride = format!("k{ride}");
                    let event = match self.draw.below(5) {
                        0 => self.harness.ride(&ride, &found, RideStatus::Cancelled),
                        _ => self.harness.end_of_ride(&ride, &found),
                    };
                    self.harness.publish(event).await;
                    self.passengers.insert(n, Passenger::Idle);
                }
                _ => {}
            }
        }
        let driver = self.draw.below(DRIVERS);
        self.online(driver).await;
        tokio::time::sleep(ROUND).await;
        while let Some(stored) = self.harness.published.next(Duration::from_millis(1)).await.unwrap() {
            if let Event::MatchFound(found) = Event::parse(&stored.subject, &stored.payload).unwrap() {
                self.found.push(found.match_id);
                self.harness.events.found.insert(found.match_id, found.clone());
                self.answer(found.match_id).await;
            }
        }
    }

    async fn answer(&mut self, id: MatchId) {
        let found = self.harness.events.found[&id].clone();
        let passenger = name(found.passenger_id.0)[1..].parse().unwrap();
        let is_current = match self.passengers[&passenger] {
            Passenger::Searches(request) => RequestId(uuid(&format!("r{request}"))) == found.request_id,
            _ => false,
        };
        match self.draw.below(10) {
            _ if !is_current => {}
            0..6 => {
                let accepted = self.harness.events().accepted(id);
                self.harness.publish(Event::MatchAccepted(accepted)).await;
                self.passengers.insert(passenger, Passenger::Accepted(id));
            }
            6..8 => {
                let declined = self.harness.events().rejected(id, RejectReason::Declined);
                self.harness.publish(Event::MatchRejected(declined)).await;
            }
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_record_of_three_zones_comes_out_the_same_and_another_policy_is_tried_on_it() {
    let mut city = City::start().await;
    let mut rounds = 0;
    while city.found.len() < DECISIONS {
        city.round().await;
        rounds += 1;
        assert!(rounds < 100 * DECISIONS, "{} found", city.found.len());
        // Zones change their owners, and terms follow each other.
        match rounds % 60 {
            20 => city.harness.stop_process("b").await,
            40 => city.harness.start_process("b").await,
            _ => {}
        }
    }
    let City { harness, moved, found, requests, .. } = city;
    let (store, metrics) = (harness.store.clone(), harness.platform.metrics.clone());
    harness.end().await;

    let mut entries = Entries::from(&store, start_time()).await.unwrap();
    let (mut replay, mut decisions, mut steps, mut terms): (Option<Replay>, usize, usize, BTreeSet<i64>) =
        Default::default();
    let mut zones = BTreeSet::new();
    while let Some(entry) = entries.next().await.unwrap() {
        terms.insert(entry.epoch);
        if entry.kind == Kind::Snapshot {
            let begun = Replay::begin(&entry, entries.rules()).unwrap();
            zones.insert(begun.engine.rules().zone.number);
            replay = Some(begun);
            continue;
        }
        let replayed = replay.as_mut().unwrap().step(&entry, entries.rules()).unwrap();
        assert!(replayed.is_same, "step {} of term {}: {:?}", entry.number, entry.epoch, replayed.step);
        decisions += replayed.output.events.iter().filter(|event| matches!(event, Event::MatchFound(_))).count();
        steps += 1;
    }
    let conflicts = metrics.match_conflicts.get();
    println!(
        "{decisions} decisions in {steps} steps of {} terms, {conflicts} lost to other zones: 0 differ",
        terms.len()
    );
    assert_eq!(zones, BTreeSet::from([0, 1, 2]));
    assert!(terms.len() > 3 && conflicts > 0);
    // What another zone was first with was decided, and is in no event.
    assert_eq!(decisions as u64, found.len() as u64 + conflicts);

    for id in found.iter().step_by(found.len() / 20) {
        let explanation = query::explain(&store, Target::Match(*id)).await.unwrap();
        assert!(explanation.reproduced, "{:?}", explanation.reason);
        assert_eq!(explanation.decisions.iter().map(|d| d.match_id).collect::<Vec<_>>(), [Some(*id)]);
    }
    let mut of_several = 0;
    for request in moved {
        let target = Target::Request(RequestId(uuid(&format!("r{request}"))));
        let explanation = query::explain(&store, target).await.unwrap();
        if explanation.decisions.is_empty() {
            continue;
        }
        assert!(explanation.reproduced, "{:?}", explanation.reason);
        assert!(explanation.decisions.is_sorted_by_key(|decision| decision.at));
        of_several += usize::from(explanation.decisions.iter().map(|d| d.term).collect::<BTreeSet<_>>().len() > 1);
    }
    assert!(of_several > 0, "no search was decided about in two zones");

    let of = async |policy| query::what_if(&store, policy, start_time()).await.unwrap().unwrap();
    let same = of(Policy::Batched).await;
    assert_eq!(same.what_if, same.happened);
    assert_eq!((same.zones, same.gaps, same.twice), (3, 0, 0));
    assert!(same.happened.matched > DECISIONS / 4, "{same:?}");
    assert_eq!((same.offers, same.same_offers), (found.len(), found.len()));
    // The last ones are not handled when it ends.
    let handled = requests - PASSENGERS..=requests;
    assert!(handled.contains(&u32::try_from(same.happened.requests).unwrap()));
    let other = of(Policy::FirstCome).await;
    assert_eq!((other.happened.clone(), other.what_if.requests), (same.happened, same.what_if.requests));
    assert!(other.what_if.matched > 0 && other.same_offers < other.offers);
    println!(
        "first-come: {} matched, {} of {} offers the same, {} twice",
        other.what_if.matched, other.same_offers, other.offers, other.twice
    );
}
