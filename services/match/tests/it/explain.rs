//! Why a passenger was offered this driver, what another policy would have done, and what a driver is shown of it.

use chrono::{DateTime, Duration, Utc};
use matching::engine::Rules;
use matching::record::explain::{Explainer, Explanation, Target};
use matching::record::missed::Missed;
use matching::record::what_if::{Happened, Report, WhatIf};
use matching::record::{
    Entry, Kind, Recorded, Recorder, RulesByVersion, RulesVersion, parse_rules, query, rows, rules_text,
};
use matching::{MIGRATIONS, Policy, Tables};
use platform::{Store, World};
use streams::event::rfc3339;
use streams::missed_offers::{MissedOffer, MissedOffersReply, WhyMissed};
use streams::{MatchId, RequestId};
use testing::{Backend, on_both_stores};

use crate::engine_harness::{EngineHarness, km, name, rules, user, uuid};
use crate::random_walk::{Walk, op, runner};

on_both_stores!(
    a_stored_decision_is_explained,
    rules_that_cannot_be_read_are_in_the_way_of_their_own_steps_only,
    what_if_reads_the_store
);

/// A harness that records, with lines played.
fn played(lines: &[&str]) -> EngineHarness {
    let mut harness = EngineHarness::new();
    harness.recorder = Some(Recorder::new(1));
    for line in lines {
        harness.line(line);
    }
    harness
}

fn by_version() -> RulesByVersion {
    RulesByVersion::from([(rules_text(&rules()).0, Ok(rules()))])
}

fn explain(entries: &[Entry], target: Target) -> Explanation {
    let mut explainer = Explainer::new(target);
    let rules = by_version();
    let _ = entries.iter().any(|entry| explainer.entry(entry, &rules));
    explainer.finish()
}

/// As JSON, with the names of the harness.
fn text(explanation: &Explanation) -> String {
    let version = rules_text(&rules()).0.to_string();
    let mut text = serde_json::to_string_pretty(explanation).unwrap().replace(&version, "of the harness");
    for kind in ["d", "p", "r", "m"] {
        for n in 1..30 {
            let id = uuid(&format!("{kind}{n}"));
            text = text.replace(&id.to_string(), &name(id));
        }
    }
    text
}

/// Two searches at once for drivers of every kind.
const SCENE: &[&str] = &[
    "d1 on 0.5",
    "d2 on 1 van",
    "d3 on 1.5",
    "r9 p9 find 1.5",
    "m1 accept",
    "k1 pickup m1",
    "d4 on 7",
    "d5 on 0.2",
    "d5 off",
    "r1 p1 find 0",
    "m2 decline",
    "d6 on 3",
    "d7 on 4.5",
];

#[test]
fn a_decision_names_the_candidates_and_why_the_others_were_left_out() {
    let harness = played(SCENE);
    let explanation = explain(&harness.recorded.entries, Target::Match(MatchId(uuid("m3"))));
    insta::assert_snapshot!(text(&explanation), @r#"
    {
      "reproduced": true,
      "reason": null,
      "decisions": [
        {
          "at": "2026-01-02T03:04:05.000000Z",
          "term": 1,
          "step": 13,
          "reproduced": true,
          "policy": "batched",
          "window_ms": 120000,
          "radius_m": 5000.0,
          "market_id": "world",
          "rules_version": "of the harness",
          "request_id": "r1",
          "vehicle_type": "car",
          "waited_s": 0.0,
          "others_waiting": 0,
          "outcome": "offered",
          "match_id": "m3",
          "candidates": [
            {
              "driver_id": "d5",
              "distance_m": 0.0,
              "eta_s": 0.0,
              "why": "off_duty"
            },
            {
              "driver_id": "d1",
              "distance_m": 500.0,
              "eta_s": 93.0,
              "why": "declined",
              "until": "2026-01-02T03:06:05Z"
            },
            {
              "driver_id": "d2",
              "distance_m": 1000.0,
              "eta_s": 186.0,
              "why": "other_vehicle"
            },
            {
              "driver_id": "d3",
              "distance_m": 1500.0,
              "eta_s": 279.0,
              "why": "in_ride",
              "free_in_s": 928,
              "may_be_waited_for": false
            },
            {
              "driver_id": "d6",
              "distance_m": 3000.0,
              "eta_s": 557.0,
              "why": "offered"
            },
            {
              "driver_id": "d4",
              "distance_m": 7000.0,
              "eta_s": 1300.0,
              "why": "outside_radius"
            }
          ],
          "left_out": 0
        }
      ],
      "left_out": 0
    }
    "#);
}

#[test]
fn a_search_is_explained_at_each_step_that_looked_for_a_driver() {
    let harness = played(&["r1 p1 find 0", "d1 on 1", "m1 decline", "17 s", "d2 on 9", "d3 on 2"]);
    let explanation = explain(&harness.recorded.entries, Target::Request(RequestId(uuid("r1"))));
    assert!(explanation.reproduced, "{:?}", explanation.reason);
    let lines: Vec<String> = explanation
        .decisions
        .iter()
        .map(|d| {
            let why = |c: &matching::record::explain::Candidate| format!("{} {:?}", name(c.driver_id.0), c.why);
            let whys: Vec<String> = d.candidates.iter().map(why).collect();
            format!("step {} {:?} {}", d.step, d.outcome, whys.join("; ")).trim_end().to_owned()
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    step 2 NoDriver
    step 3 Offered d1 Offered
    step 4 NoDriver d1 Declined { until: 2026-01-02T03:06:05Z }
    step 6 Offered d1 Declined { until: 2026-01-02T03:06:05Z }; d3 Offered
    ");
}

#[test]
fn an_explanation_that_is_not_the_recorded_decision_says_so() {
    let harness = played(SCENE);
    let entries = &harness.recorded.entries;
    let target = Target::Match(MatchId(uuid("m3")));
    // A step is missing.
    let without: Vec<Entry> = entries.iter().filter(|e| e.number != 4).cloned().collect();
    let explanation = explain(&without, target);
    assert!(!explanation.reproduced && explanation.decisions.is_empty());
    insta::assert_snapshot!(explanation.reason.unwrap(), @"after step 3 of term 1 steps are missing in the record");
    // The rules are not those by which it was decided.
    let other = Rules { radius_m: 1_000.0, radius_max_m: 1_000.0, ..rules() };
    let wrong = RulesByVersion::from([(rules_text(&rules()).0, Ok(other))]);
    let mut explainer = Explainer::new(target);
    let _ = entries.iter().any(|entry| explainer.entry(entry, &wrong));
    let explanation = explainer.finish();
    assert_eq!((explanation.reproduced, explanation.decisions.len()), (false, 0));
    assert!(explanation.reason.unwrap().ends_with("decides otherwise now"));
    // What was never decided.
    let explanation = explain(entries, Target::Match(MatchId(uuid("m77"))));
    assert_eq!(
        (explanation.reproduced, explanation.reason.as_deref()),
        (false, Some("no recorded step decided about it"))
    );
}

fn shown(missed: Missed) -> (Vec<MissedOffer>, Option<DateTime<Utc>>) {
    let MissedOffersReply::Missed { searches, complete_since, .. } = missed.finish() else { panic!() };
    (searches, complete_since)
}

/// Two searches that others are offered, with a snapshot before each.
#[test]
fn what_did_not_happen_so_is_not_shown_and_the_answer_says_since_when_it_is_complete() {
    let mut harness = played(&["d1 on 0.5", "d2 on 0.6", "d3 on 3", "r1 p1 find 0", "m1 accept", "k1 pickup m1"]);
    harness.recorder.as_mut().unwrap().begin_again();
    ["60 s", "d4 on 100"].into_iter().for_each(|line| _ = harness.line(line));
    let (second, begin) = (harness.now, crate::engine_harness::start_time());
    harness.line("r2 p2 find 0");
    let entries = harness.recorded.entries;
    let view = |entries: &[Entry], rules: &RulesByVersion, since| {
        let mut missed = Missed::new(user("d3"), since);
        entries.iter().for_each(|entry| missed.entry(entry, rules));
        let (searches, complete_since) = shown(missed);
        (searches.len(), complete_since)
    };
    let minute = |at: DateTime<Utc>| at - Duration::seconds(5);
    assert_eq!(view(&entries, &by_version(), begin), (2, Some(begin)));
    assert_eq!(view(&entries, &by_version(), second), (1, Some(minute(second))));
    let snapshots: Vec<usize> = (0..entries.len()).filter(|n| entries[*n].kind == Kind::Snapshot).collect();
    let [_, snapshot] = snapshots[..] else { panic!("{snapshots:?}") };
    // The first search comes out otherwise.
    let mut otherwise = entries.clone();
    let other = Rules { radius_m: 100.0, radius_max_m: 100.0, ..rules() };
    let version = rules_text(&other).0;
    let both = RulesByVersion::from([(rules_text(&rules()).0, Ok(other)), (version, Ok(rules()))]);
    assert_eq!(view(&entries[..snapshot], &both, begin), (0, None));
    // A step is missing.
    let missing = otherwise.remove(snapshot - 1);
    assert_eq!(missing.kind, Kind::Step);
    assert_eq!(view(&otherwise, &by_version(), begin), (2, Some(entries[snapshot].at)));
    // And one before the first search.
    otherwise.remove(3);
    assert_eq!(view(&otherwise, &by_version(), begin), (1, Some(entries[snapshot].at)));
    assert_eq!(view(&otherwise[..4], &by_version(), begin), (0, None));
}

#[test]
fn a_driver_sees_why_others_were_offered_what_was_around_and_nobody_s_identity() {
    let harness = played(SCENE);
    let view = |driver: &str, since: DateTime<Utc>| {
        let mut missed = Missed::new(user(driver), since);
        harness.recorded.entries.iter().for_each(|entry| missed.entry(entry, &by_version()));
        shown(missed).0
    };
    let begin = crate::engine_harness::start_time();
    let whys = |driver: &str| {
        let view = view(driver, begin);
        view.iter().map(|m| (m.why, m.distance_m, m.nearer_by_m)).collect::<Vec<_>>()
    };
    assert_eq!(whys("d4"), [], "outside the radius");
    assert_eq!(whys("d2"), [], "another vehicle was wanted");
    assert_eq!(whys("d5"), [], "off duty");
    assert_eq!(whys("d77"), [], "never seen");
    assert_eq!(whys("d3"), [(WhyMissed::InRide, 1_500.0, -1_500.0)]);
    assert_eq!(view("d1", harness.now + Duration::minutes(1)), []);
    let json = serde_json::to_string(&view("d3", begin)).unwrap();
    assert!(!json.contains(&uuid("d1").to_string()) && !json.contains(&uuid("p1").to_string()), "{json}");
}

/// Whoever asks with places of their own choice learns no more of a pickup than its rounded place, and of the time no more than the minute.
#[test]
fn a_driver_learns_a_pickup_to_100_m_and_its_time_to_the_minute() {
    let places: Vec<f64> = (0..12).map(|n| 1.5 + 0.013 * f64::from(n)).collect();
    let mut lines = vec!["d1 on 0.5".to_owned()];
    lines.extend(places.iter().enumerate().map(|(n, at)| format!("d{} on {at}", 11 + n)));
    lines.push("r1 p1 find 0.037".to_owned());
    let harness = played(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    // The search came at 5 s past the minute, and is shown to whoever asks from any moment of that minute on.
    let since = harness.now + Duration::seconds(10);
    for (n, at) in places.iter().enumerate() {
        let mut missed = Missed::new(user(&format!("d{}", 11 + n)), since);
        harness.recorded.entries.iter().for_each(|entry| missed.entry(entry, &by_version()));
        let [search] = &shown(missed).0[..] else { panic!("one search") };
        let to_100_m = |distance_m: f64| (distance_m / 100.0).round() * 100.0;
        let (own_m, other_m) = (km(*at).distance_m(&search.pickup), km(0.5).distance_m(&search.pickup));
        assert_eq!((search.distance_m, search.nearer_by_m), (to_100_m(own_m), to_100_m(own_m - other_m)), "{at}");
        assert_eq!(rfc3339::text(&search.at), "2026-01-02T03:04:00.000000Z");
    }
}

fn what_if(entries: &[Entry], rules: &RulesByVersion, policy: Policy) -> Report {
    what_if_since(entries, rules, policy, DateTime::<Utc>::MIN_UTC)
}

fn what_if_since(entries: &[Entry], rules: &RulesByVersion, policy: Policy, since: DateTime<Utc>) -> Report {
    let mut happened = Happened::new(since);
    entries.iter().for_each(|entry| assert!(happened.entry(entry, rules)));
    let mut what_if = WhatIf::new(policy, happened);
    entries.iter().for_each(|entry| what_if.entry(entry, rules));
    what_if.finish()
}

#[test]
fn under_the_same_policy_exactly_what_happened_comes_out() {
    let (offers, matched) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    runner(30, 6)
        .run(&proptest::collection::vec(op(12), 200..=1_500), |ops| {
            let mut walk = Walk::new();
            walk.harness.recorder = Some(Recorder::new(1));
            for (n, op) in ops.iter().enumerate() {
                walk.apply(op);
                if n == 700 {
                    walk.harness.pass_time(400);
                }
            }
            let entries = &walk.harness.recorded.entries;
            let report = what_if(entries, &by_version(), Policy::Batched);
            assert_eq!(report.what_if, report.happened);
            assert_eq!((report.offers, report.gaps), (report.same_offers, 0));
            assert_eq!(report.offers, walk.harness.found.len());
            // Another one has something to say of each search as well, and never loses its way.
            let other = what_if(entries, &by_version(), Policy::FirstCome);
            assert_eq!(other.what_if.requests, report.happened.requests);
            offers.set(offers.get() + report.offers);
            matched.set(matched.get() + report.happened.matched);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert!(offers.get() > 1_500 && matched.get() > 500, "{} offers, {} matched", offers.get(), matched.get());
}

/// First-come takes the nearest driver for whoever waits longest; together both are nearer.
#[test]
fn another_policy_is_shown_beside_what_happened() {
    let mut harness = played(&["r1 p1 find 0", "r2 p2 find 2"]);
    harness.position("d1", km(0.9), Duration::zero());
    harness.position("d2", km(-2.0), Duration::zero());
    let (one, two) =
        (harness.online("d1", streams::VehicleType::Car, 0.9), harness.online("d2", streams::VehicleType::Car, -2.0));
    use matching::engine::Input::Beacon;
    harness.step(&[Beacon(&one, harness.now), Beacon(&two, harness.now)]);
    for line in ["m1 accept", "m2 accept", "k1 pickup m1", "k2 pickup m2", "60 s", "k1 completed m1", "k2 completed m2"]
    {
        harness.line(line);
    }
    let report = what_if(&harness.recorded.entries, &by_version(), Policy::FirstCome);
    assert_eq!((report.happened.policy, report.what_if.policy), ("batched", "first-come"));
    assert_eq!((report.happened.matched, report.what_if.requests), (2, 2));
    assert_eq!((report.what_if.matched, report.offers, report.same_offers), (2, 2, 0));
    assert!(report.what_if.pickup_eta_s.mean > report.happened.pickup_eta_s.mean + 60.0, "{report:?}");
}

/// The record begins before the time that was asked for: what was offered to earlier searches counts on neither side.
#[test]
fn offers_are_those_of_the_searches_that_count() {
    let mut harness =
        played(&["d1 on 0", "r1 p1 find 0", "m1 accept", "k1 pickup m1", "60 s", "k1 completed m1", "1 s"]);
    let second = harness.now;
    ["r2 p2 find 0", "m2 accept", "k2 pickup m2", "60 s", "k2 completed m2"]
        .iter()
        .for_each(|line| _ = harness.line(line));
    let entries = &harness.recorded.entries;
    for (since, searches) in [(DateTime::<Utc>::MIN_UTC, 2), (second, 1), (harness.now + Duration::hours(1), 0)] {
        for policy in [Policy::Batched, Policy::FirstCome] {
            let report = what_if_since(entries, &by_version(), policy, since);
            assert_eq!((report.happened.requests, report.happened.matched), (searches, searches), "{report:?}");
            assert_eq!((report.what_if.matched, report.offers, report.same_offers), (searches, searches, searches));
            assert!([report.happened.empty_km, report.happened.gini].iter().all(|figure| figure.is_sign_positive()));
        }
    }
}

/// What became of offers of the other policy is not known after a break: it goes on from what happened.
#[test]
fn after_a_break_another_policy_begins_anew_with_what_happened() {
    let mut harness = played(&["r1 p1 find 0", "r2 p2 find 2"]);
    let beacons = [("d1", 0.9), ("d2", -2.0)].map(|(id, at)| harness.online(id, streams::VehicleType::Car, at));
    let at = harness.now;
    harness.step(&beacons.each_ref().map(|beacon| matching::engine::Input::Beacon(beacon, at)));
    for line in ["m1 accept", "m2 accept", "k1 pickup m1", "k2 pickup m2", "1 s", "d8 on 100"] {
        harness.line(line);
    }
    let missing = harness.recorded.entries.len();
    ["d8 off", "d9 on 100"].into_iter().for_each(|line| _ = harness.line(line));
    harness.recorder.as_mut().unwrap().begin_again();
    for line in ["d9 off", "60 s", "k1 completed m1", "k2 completed m2", "r3 p3 find 0", "m3 accept", "k3 pickup m3"] {
        harness.line(line);
    }
    let mut entries = harness.recorded.entries;
    entries.remove(missing);
    let report = what_if(&entries, &by_version(), Policy::FirstCome);
    assert_eq!((report.gaps, report.happened.matched, report.what_if.matched), (1, 3, 3));
    // Only the one after the break is the same.
    assert_eq!((report.offers, report.same_offers), (3, 1));
}

async fn stored(backend: Backend, recorded: &Recorded, at: DateTime<Utc>) -> Store<Tables> {
    let store: Store<Tables> = backend.store(&World::real(), "test", "matching", &MIGRATIONS).await;
    let mut tx = store.begin().await.unwrap();
    rows::insert(&mut tx, recorded, at).await.unwrap();
    tx.commit().await.unwrap();
    store
}

async fn a_stored_decision_is_explained(backend: Backend) {
    let harness = played(SCENE);
    let store = stored(backend, &harness.recorded, harness.now).await;
    let mut tx = store.begin().await.unwrap();
    matching::engine::rows::write(&mut tx, &harness.engine.rows(), matching::zones::Zone::ONLY).await.unwrap();
    tx.commit().await.unwrap();
    for n in 1..=3 {
        let id = MatchId(uuid(&format!("m{n}")));
        let explanation = query::explain(&store, Target::Match(id)).await.unwrap();
        assert!(explanation.reproduced, "{:?}", explanation.reason);
        assert_eq!(explanation.decisions.len(), 1);
        assert_eq!(explanation.decisions[0].match_id, Some(id));
    }
    let explanation = query::explain(&store, Target::Request(RequestId(uuid("r1")))).await.unwrap();
    assert!(explanation.reproduced && explanation.decisions.len() > 1, "{explanation:?}");
    let explanation = query::explain(&store, Target::Match(MatchId(uuid("m99")))).await.unwrap();
    assert!(!explanation.reproduced);
}

/// Rules that another version of the program wrote blind nothing but the steps that were made by them.
async fn rules_that_cannot_be_read_are_in_the_way_of_their_own_steps_only(backend: Backend) {
    let harness = played(SCENE);
    let store = stored(backend, &harness.recorded, harness.now).await;
    let mut tx = store.begin().await.unwrap();
    let foreign = Recorded { rules: Some((RulesVersion(7), "{}".to_owned())), ..Recorded::default() };
    rows::insert(&mut tx, &foreign, harness.now).await.unwrap();
    matching::engine::rows::write(&mut tx, &harness.engine.rows(), matching::zones::Zone::ONLY).await.unwrap();
    tx.commit().await.unwrap();
    let target = Target::Match(MatchId(uuid("m3")));
    assert!(query::explain(&store, target).await.unwrap().reproduced);
    let report = query::what_if(&store, Policy::Batched, crate::engine_harness::start_time()).await.unwrap().unwrap();
    assert_eq!((report.gaps, report.happened.requests), (0, 2));
    // Its own steps say why they cannot be run again.
    let wrong = RulesByVersion::from([(rules_text(&rules()).0, parse_rules("{}"))]);
    let mut explainer = Explainer::new(target);
    harness.recorded.entries.iter().for_each(|entry| _ = explainer.entry(entry, &wrong));
    let reason = explainer.finish().reason.unwrap();
    assert!(reason.contains("the recorded rules"), "{reason}");
}

async fn what_if_reads_the_store(backend: Backend) {
    let harness = played(SCENE);
    let begin = crate::engine_harness::start_time();
    let store = stored(backend, &harness.recorded, harness.now).await;
    let report = query::what_if(&store, Policy::Batched, begin).await.unwrap().unwrap();
    assert_eq!(report.what_if, report.happened);
    assert_eq!((report.happened.requests, report.entries), (2, harness.recorded.entries.len()));
    assert!(harness.recorded.entries.iter().any(|e| e.kind == Kind::Step));
    let empty: Store<Tables> = backend.store(&World::real(), "test", "matching", &MIGRATIONS).await;
    assert!(query::what_if(&empty, Policy::Batched, begin).await.unwrap().is_none());
}
