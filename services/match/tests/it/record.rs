//! What is recorded is decided again, bit for bit.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use geospatial::newest::Fix;
use matching::engine::{Engine, Input, Rules};
use matching::positions::DriverPositions;
use matching::record::{Entry, Kind, Recorder, Replay, RulesByVersion, RulesVersion, parse_rules, rows, rules_text};
use matching::{MIGRATIONS, Policy, Tables};
use platform::{Store, World};
use pricing::market::Markets;
use proptest::prelude::*;
use roads::{Leg, Road, Way};
use streams::event::LocationUpdate;
use streams::{Event, VehicleType};
use testing::{Backend, on_both_stores};

use crate::engine_harness::{EngineHarness, km, rules, user};
use crate::random_walk::{Op, Walk, op, runner};

on_both_stores!(entries_are_stored_in_order_and_deleted_when_old, a_replay_of_stored_entries_decides_the_same);

/// A walk that is recorded, through take-overs and changes of the rules.
struct RecordedWalk {
    walk: Walk,
    epoch: i64,
    rules: RulesByVersion,
    entries: Vec<Entry>,
    choices: usize,
}

fn choices() -> [Rules; 5] {
    let of = |policy| Rules { policy, ..rules() };
    // It grows to 5 km.
    let near = Rules { radius_m: 1_234.5, window: Duration::milliseconds(1_500), speed_mps: None, ..rules() };
    let by_road = Rules { roads: true, ..rules() };
    [of(Policy::Batched), by_road, of(Policy::FirstCome), of(Policy::ShortestPair), near]
}

impl RecordedWalk {
    fn new() -> Self {
        let mut walk = Walk::new();
        walk.harness.recorder = Some(Recorder::new(1));
        let rules = choices().iter().map(|rules| (rules_text(rules).0, Ok(rules.clone()))).collect();
        Self { walk, epoch: 1, rules, entries: Vec::new(), choices: 0 }
    }

    fn take_over(&mut self) {
        let harness = &mut self.walk.harness;
        self.epoch += 1;
        harness.recorder = Some(Recorder::new(self.epoch));
        harness.engine = Engine::from_rows(harness.engine.rules().clone(), harness.engine.rows());
        harness.engine.expire_not_before(harness.now);
        harness.positions = DriverPositions::default();
        harness.engine.load_positions(&mut harness.positions);
    }

    fn change_rules(&mut self) {
        self.choices += 1;
        self.walk.harness.engine.set_rules(choices()[self.choices % 5].clone());
    }

    /// Some of what the engine wants to know of roads: now and then there is none, or nobody can say.
    fn answer_roads(&mut self, kind: u32) {
        let harness = &mut self.walk.harness;
        let count = harness.wanted.len().min(1 + kind as usize % 7);
        let answer = |(n, way): (usize, Way)| {
            let leg = Leg { distance_m: way.from.distance_m(&way.to) * 1.7, duration_s: 1.0 / 3.0 + f64::from(kind) };
            let road = [Some(Road::Leg(leg)), Some(Road::None), None, Some(Road::Leg(leg))][(n + kind as usize) % 4];
            (way, road)
        };
        let answers: Vec<(Way, Option<Road>)> = harness.wanted.drain(..count).enumerate().map(answer).collect();
        harness.step(&[Input::Roads(&answers)]);
    }

    fn collect(&mut self) {
        self.entries.append(&mut self.walk.harness.recorded.entries);
    }

    /// Runs the record again. Returns the decisions.
    fn replay(&mut self) -> usize {
        self.walk.harness.step(&[Input::Tick, Input::Housekeeping]);
        self.collect();
        let (decisions, replay) = replay(&self.entries, &self.rules);
        // What was not recorded has left nothing behind.
        let live = &self.walk.harness.engine;
        assert!(replay.engine.rows() == live.rows(), "the engines differ");
        assert_eq!(replay.engine.road_times().rows(), live.road_times().rows());
        decisions
    }
}

/// Runs entries again, and compares all that each step put out and the rows at each snapshot. Returns the decisions.
fn replay(entries: &[Entry], rules: &RulesByVersion) -> (usize, Replay) {
    let (mut replay, mut decisions): (Option<Replay>, usize) = (None, 0);
    for entry in entries {
        if entry.kind == Kind::Snapshot {
            let next = Replay::begin(entry, rules).unwrap();
            if let Some(before) = replay.filter(|_| entry.number > 1) {
                // Drivers may have moved since the step before.
                assert_eq!(before.engine.rows(), next.engine.rows());
            }
            replay = Some(next);
            continue;
        }
        let replayed = replay.as_mut().expect("a chain begins with a snapshot").step(entry, rules).unwrap();
        assert!(replayed.is_same, "step {} of term {}: {:?}", entry.number, entry.epoch, replayed.step);
        let found = replayed.output.events.iter().filter(|event| matches!(event, Event::MatchFound(_))).count();
        assert!(found <= replayed.step.match_ids.len());
        decisions += found;
    }
    (decisions, replay.unwrap())
}

/// An operation of the walk, a take-over, a change of rules, or minutes in which nobody does anything.
#[derive(Debug, Clone)]
enum Act {
    Op(Op),
    TakeOver,
    ChangeRules,
    Minutes(u32),
    AnswerRoads(u32),
}

fn act() -> impl Strategy<Value = Act> {
    (0..200_u32, op(12), 1..7_u32).prop_map(|(kind, op, minutes)| match kind {
        0 => Act::TakeOver,
        1 => Act::ChangeRules,
        2 => Act::Minutes(minutes),
        3..13 => Act::AnswerRoads(kind + minutes),
        _ => Act::Op(op),
    })
}

#[test]
fn ten_thousand_recorded_decisions_come_out_the_same() {
    let (decisions, kinds) = (Cell::new(0), Cell::new([0; 3]));
    runner(105, 5)
        .run(&prop::collection::vec(act(), 200..=2_000), |acts| {
            let mut recorded = RecordedWalk::new();
            for act in &acts {
                match act {
                    Act::Op(op) => recorded.walk.apply(op),
                    Act::TakeOver => recorded.take_over(),
                    Act::ChangeRules => recorded.change_rules(),
                    Act::AnswerRoads(kind) => recorded.answer_roads(*kind),
                    Act::Minutes(minutes) => {
                        recorded.walk.harness.pass_time(minutes * 60);
                    }
                }
            }
            decisions.set(decisions.get() + recorded.replay());
            let count = |kind| recorded.entries.iter().filter(|e| e.kind == kind).count();
            let counts = [count(Kind::Snapshot), count(Kind::Step), usize::try_from(recorded.epoch).unwrap()];
            kinds.set(std::array::from_fn(|n| kinds.get()[n] + counts[n]));
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    let [snapshots, steps, terms] = kinds.get();
    assert!(decisions.get() >= 10_000, "{} decisions are too few", decisions.get());
    assert!(
        snapshots > terms + 200 && terms > 200 && steps > 50_000,
        "{snapshots} snapshots, {steps} steps, {terms} terms"
    );
}

#[test]
fn a_step_that_only_ticks_is_not_recorded_and_one_that_moves_drivers_is_after_ten_seconds() {
    let mut harness = EngineHarness::new();
    harness.recorder = Some(Recorder::new(1));
    harness.line("r1 p1 find 0");
    let kinds =
        |harness: &mut EngineHarness| harness.recorded.entries.drain(..).map(|entry| entry.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&mut harness), [Kind::Snapshot, Kind::Step]);
    harness.now += Duration::seconds(1);
    harness.step(&[Input::Tick]);
    assert_eq!(kinds(&mut harness), []);
    for second in 2..=10 {
        harness.line("d1 at 3");
        harness.now += Duration::seconds(1);
        harness.step(&[Input::Tick]);
        let expected = if second == 10 { vec![Kind::Step] } else { Vec::new() };
        assert_eq!(kinds(&mut harness), expected, "second {second}");
    }
}

#[test]
fn missing_steps_unknown_rules_and_damaged_bytes_are_named() {
    let mut recorded = RecordedWalk::new();
    for line in ["d1 on 0", "r1 p1 find 1", "m1 accept", "k1 pickup m1"] {
        recorded.walk.harness.line(line);
    }
    recorded.collect();
    let [snapshot, beacon, finder, accepted, _] = &recorded.entries[..] else { panic!("{:?}", recorded.entries) };
    let rules = &recorded.rules;
    let begun = || Replay::begin(snapshot, rules).unwrap();
    let after = |entry: &Entry| begun().step(entry, rules).map(|_| ()).unwrap_err();
    insta::assert_snapshot!(after(finder), @"after step 1 of term 1 steps are missing in the record");
    let gap = Entry { kind: Kind::Gap, ..beacon.clone() };
    insta::assert_snapshot!(after(&gap), @"step 2 of term 1 was too large to be recorded");
    let newer = Entry { bytes: [&beacon.bytes[..], &[99, 0]].concat().into(), ..beacon.clone() };
    insta::assert_snapshot!(after(&newer), @"the record has a section 99: a later version of the program wrote it");
    let no_rules = begun().step(beacon, &BTreeMap::new()).map(|_| ()).unwrap_err();
    assert!(no_rules.contains("are not in the record"), "{no_rules}");
    for length in 0..beacon.bytes.len() {
        // Whatever is cut off, it is an error or other inputs, and no panic.
        let cut = Entry { bytes: beacon.bytes[..length].into(), ..beacon.clone() };
        let _ = begun().step(&cut, rules);
        let mut wrong = beacon.bytes.to_vec();
        wrong[length] ^= 0xff;
        let _ = begun().step(&Entry { bytes: wrong.into(), ..beacon.clone() }, rules);
    }
    // Another decision than the recorded one is seen.
    let mut replay = begun();
    replay.step(beacon, rules).unwrap();
    replay.engine.set_rules(rules.values().next().unwrap().clone().unwrap());
    let other: RulesByVersion =
        rules.iter().map(|(v, r)| (*v, Ok(Rules { radius_m: 10.0, ..r.clone().unwrap() }))).collect();
    assert!(!replay.clone().step(finder, &other).unwrap().is_same, "nobody is within ten metres");
    assert!(replay.step(finder, rules).unwrap().is_same);
    assert_eq!(replay.step(accepted, rules).unwrap().step.match_ids, []);
}

/// In inputs and in snapshots. Searches of the world are recorded as by the version before.
#[test]
fn a_search_is_decided_again_in_its_market() {
    let file = r#"{"type":"FeatureCollection","features":[
        {"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[-80,30],[-60,30],[-60,50],[-80,50],[-80,30]]]},"properties":{
        "market_id":"b","currency":"EUR","time_zone":"UTC","fares":{"car":{"base":1,"per_km":2,"per_minute":3,"minimum":4}}}}]}"#;
    let markets = Arc::new(Markets::parse(file, &Default::default()).unwrap());
    let of_file = Rules { markets, ..rules() };
    let mut recorded = RecordedWalk::new();
    recorded.rules.insert(rules_text(&of_file).0, Ok(of_file.clone()));
    recorded.walk.harness.engine.set_rules(of_file);
    for (n, market) in [Some("b"), Some("gone"), None, Some("world")].into_iter().enumerate() {
        let harness = &mut recorded.walk.harness;
        let driver = harness.online(&format!("d{n}"), VehicleType::Car, 0.0);
        let search = harness.search(&format!("r{n}"), &format!("p{n}"), 0.0);
        let search = streams::event::UserFinder { market_id: market.map(str::to_owned), ..search };
        let before = harness.found.len();
        harness.step(&[Input::Finder(&search)]);
        harness.step(&[Input::Beacon(&driver, harness.now)]);
        let is_offered = harness.found.len() > before;
        assert_eq!(is_offered, market != Some("gone"), "{market:?}");
        if n == 1 {
            recorded.take_over();
        }
    }
    assert_eq!(recorded.replay(), 3);
    let stored = &recorded.walk.harness.engine;
    let of = |n: u128| stored.requests().values().nth(n as usize).and_then(|r| r.market_id.clone());
    assert_eq!([of(0), of(1), of(2), of(3)].map(|id| id.unwrap_or_default()), ["b", "gone", "", ""]);
}

/// A market with everything that a market may have, and one that is no more.
#[test]
fn rules_are_the_same_after_they_were_text() {
    let feature = |id: &str, west: f64| {
        format!(
            r#"{{"type":"Feature","geometry":{{"type":"MultiPolygon","coordinates":[[[[{west},0.1],[{e},0.1],[{e},1.7],[{west},1.7],[{west},0.1]],
            [[{h},0.3],[{i},0.3],[{i},0.5],[{h},0.3]]],[[[179.5,1],[-179.5,1],[-179.5,2],[179.5,2],[179.5,1]]]]}},
            "properties":{{"market_id":"{id}","currency":"EUR","time_zone":"Europe/Berlin","driver_approval":"manual",
            "radius_m":1234.567,"radius_max_m":2345.678,"offer_ttl_s":7,"fares":{{"car":{{"base":1,"per_km":2,"per_minute":3,"minimum":4}}}},
            "speed_kmh":[21,22.1,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40,41,42,43,44.4]}}}}"#,
            e = west + 1.3,
            h = west + 0.2,
            i = west + 0.4,
        )
    };
    let file = |features: &[String]| format!(r#"{{"type":"FeatureCollection","features":[{}]}}"#, features.join(","));
    let parse = |text: &str| Markets::parse(text, &Default::default()).unwrap();
    let current = pricing::market::Current::new(parse(&file(&[feature("a", 3.3), feature("b", 7.7)])));
    current.replace(parse(&file(&[feature("a", 3.3)])));
    let rules = Rules { markets: current.get(), policy: Policy::ShortestPair, ..rules() };
    let (version, text) = rules_text(&rules);
    let parsed = parse_rules(&text).unwrap();
    assert_eq!(parsed, rules);
    assert_eq!(rules_text(&parsed), (version, text));
    assert_eq!(parsed.markets.of(None, &streams::Position { lat: 1.0, lng: 8.0 }).unwrap().market_id, "b");
    let other = Rules { markets: Arc::new(parse(&file(&[feature("a", 3.4)]))), ..rules };
    assert_ne!(rules_text(&other).0, version, "markets are part of the rules");
}

async fn store(backend: Backend) -> Store<Tables> {
    backend.store(&World::real(), "test", "matching", &MIGRATIONS).await
}

fn entry(epoch: i64, number: i64, kind: Kind, at: DateTime<Utc>, size: usize) -> Entry {
    let bytes = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect::<Vec<_>>().into();
    Entry { epoch, number, kind, at, rules_version: RulesVersion(u64::MAX), bytes }
}

async fn entries_are_stored_in_order_and_deleted_when_old(backend: Backend) {
    let store = store(backend).await;
    let begin: DateTime<Utc> = "2026-01-02T03:04:05Z".parse().unwrap();
    let at = |minutes: i64| begin + Duration::minutes(minutes);
    let all = [
        entry(1, 1, Kind::Snapshot, at(0), 1_300_000),
        entry(1, 2, Kind::Step, at(0), 30),
        entry(1, 3, Kind::Gap, at(1), 0),
        entry(2, 1, Kind::Snapshot, at(10), 600_000),
        entry(2, 2, Kind::Step, at(11), 100),
    ];
    let text = rules_text(&rules());
    let mut recorded = matching::record::Recorded { entries: all.to_vec(), rules: Some(text.clone()) };
    let mut tx = store.begin().await.unwrap();
    rows::insert(&mut tx, &recorded, at(0)).await.unwrap();
    recorded.entries.clear();
    rows::insert(&mut tx, &recorded, at(11)).await.unwrap();
    tx.commit().await.unwrap();

    let mut tx = store.begin().await.unwrap();
    assert_eq!(rows::page(&mut tx, (0, 0), 100, 100 << 20).await.unwrap(), all);
    assert_eq!(rows::page(&mut tx, (1, 2), 2, 100 << 20).await.unwrap(), all[1..3]);
    assert_eq!(
        rows::page(&mut tx, (1, 3), 100, 1).await.unwrap(),
        all[2..4],
        "an empty one, and one that fills the page"
    );
    assert_eq!(rows::page(&mut tx, (2, 3), 100, 1).await.unwrap(), []);
    let (both, last) = (vec![(1, 1), (2, 1)], vec![(2, 1)]);
    for (minute, snapshots) in [(0, &both), (9, &last), (10, &last), (500, &last), (-1, &both)] {
        assert_eq!(rows::snapshots_before(&mut tx, at(minute)).await.unwrap(), *snapshots, "minute {minute}");
    }
    assert_eq!(rows::rules(&mut tx, &[text.0].into()).await.unwrap(), RulesByVersion::from([(text.0, Ok(rules()))]));
    drop(tx);

    rows::purge(&store, at(62), Duration::minutes(55)).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    assert_eq!(rows::page(&mut tx, (0, 0), 100, 100 << 20).await.unwrap(), all[3..]);
    assert_eq!(rows::rules(&mut tx, &[text.0].into()).await.unwrap().len(), 1);
    drop(tx);
    rows::purge(&store, at(180), Duration::minutes(55)).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    assert_eq!(rows::page(&mut tx, (0, 0), 100, 100 << 20).await.unwrap(), []);
    assert_eq!(rows::snapshots_before(&mut tx, at(0)).await.unwrap(), []);
    assert_eq!(rows::rules(&mut tx, &[text.0].into()).await.unwrap().len(), 0);
}

/// Also a step of more than one row, and positions of every kind.
async fn a_replay_of_stored_entries_decides_the_same(backend: Backend) {
    let store = store(backend).await;
    let mut harness = EngineHarness::new();
    harness.recorder = Some(Recorder::new(7));
    harness.line("d1 on 0");
    harness.line("d2 on 2");
    for n in 0..25_000_u32 {
        let update = LocationUpdate {
            user_id: user(&format!("d{}", 100 + n)),
            ride_id: None,
            location: km(f64::from(n) / 100.0),
            accuracy_m: None,
            speed_mps: None,
            heading_deg: None,
            recorded_at: harness.now - Duration::nanoseconds(n.into()),
            reception: None,
        };
        harness.positions.record(update.user_id, &Fix::of(&update, update.recorded_at));
    }
    harness.line("d1 at 0.1234567");
    for line in ["r1 p1 find 0", "m1 accept", "k1 pickup m1", "r2 p2 find 1", "17 s", "k1 completed m1"] {
        harness.line(line);
    }
    let mut tx = store.begin().await.unwrap();
    rows::insert(&mut tx, &harness.recorded, harness.now).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let rules = rows::rules(&mut tx, &[rules_text(&rules()).0].into()).await.unwrap();
    let from = rows::snapshots_before(&mut tx, harness.now).await.unwrap()[0];
    let entries = rows::page(&mut tx, from, 1_000, 100 << 20).await.unwrap();
    assert!(entries.iter().any(|e| e.bytes.len() > 600_000), "no step is larger than a row");
    assert_eq!(entries, harness.recorded.entries);
    let (decisions, replay) = self::replay(&entries, &rules);
    assert!(decisions >= 2);
    assert!(replay.engine == harness.engine);
    assert_eq!(replay.positions.newest(user("d100")), harness.positions.newest(user("d100")));
    assert_eq!(replay.positions.nearest(VehicleType::Car, &km(0.0), 3, 5_000.0, |_| true).len(), 1);
}
