//! A policy that sees every step and may not act. It follows the record in a thread of its own with an engine of its own, whose offers
//! are those that were made; at each decision it says whom it would have offered. What it is too slow for is dropped and counted, and
//! it goes on with the next snapshot. The matcher never waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use chrono::{DateTime, Utc};
use platform::Metrics;

use crate::engine::assign::{Assignment, Policy};
use crate::engine::{Decision, Rules};
use crate::record::{Entry, Kind, Recorded, Replay, RulesByVersion, RulesVersion};

/// Steps that wait for the shadow. Beyond that they are dropped.
const WAITING_MAX: usize = 256;

#[derive(Debug)]
struct Message {
    entries: Vec<Entry>,
    rules: Option<(RulesVersion, Rules)>,
    at: DateTime<Utc>,
}

/// Whom it would offer what.
type Decide = dyn Fn(&Decision<'_>) -> Vec<Assignment> + Send;

/// The end of the channel that the matcher has. The thread ends after it.
#[derive(Debug)]
pub(crate) struct Shadow {
    to: SyncSender<Message>,
    metrics: Arc<Metrics>,
    /// A step was dropped: the shadow needs a snapshot.
    is_behind: bool,
}

impl Shadow {
    pub(crate) fn start(policy: Policy, metrics: &Arc<Metrics>) -> Self {
        let decide = move |decision: &Decision<'_>| decision.marketplace.assign(policy, decision.is_affected);
        Self::with(Box::new(decide), metrics)
    }

    fn with(decide: Box<Decide>, metrics: &Arc<Metrics>) -> Self {
        let (to, from) = sync_channel(WAITING_MAX);
        let follower = Follower { decide, metrics: metrics.clone(), rules: RulesByVersion::new(), replay: None };
        let thread = thread::Builder::new().name("shadow policy".to_owned()).spawn(move || follower.run(&from));
        if let Err(error) = thread {
            tracing::warn!(%error, "the shadow policy does not run: no thread");
        }
        Self { to, metrics: metrics.clone(), is_behind: false }
    }

    /// A step that is committed, and ticked if nothing is recorded of it. Never waits.
    pub(crate) fn see(&mut self, recorded: Recorded, rules: &Rules, at: DateTime<Utc>) {
        let begins = recorded.entries.iter().any(|entry| entry.kind == Kind::Snapshot);
        let rules = recorded.rules.map(|(version, _)| (version, rules.clone()));
        if self.is_behind && !begins {
            self.metrics.match_shadow.with_label_values(&["dropped"]).inc();
            return;
        }
        let message = Message { entries: recorded.entries, rules, at };
        self.is_behind = self.to.try_send(message).is_err();
        if self.is_behind {
            self.metrics.match_shadow.with_label_values(&["dropped"]).inc();
        }
    }
}

/// The thread.
struct Follower {
    decide: Box<Decide>,
    metrics: Arc<Metrics>,
    rules: RulesByVersion,
    replay: Option<Replay>,
}

impl Follower {
    fn run(mut self, from: &Receiver<Message>) {
        while let Ok(message) = from.recv() {
            if let Some((version, rules)) = message.rules {
                // Those of before are not used any more.
                self.rules = RulesByVersion::from([(version, rules)]);
            }
            let (entries, at) = (message.entries, message.at);
            if catch_unwind(AssertUnwindSafe(|| self.message(&entries, at))).is_err() {
                self.metrics.match_shadow.with_label_values(&["panicked"]).inc();
                // Its engine may be in between two steps.
                self.replay = None;
            }
        }
    }

    fn message(&mut self, entries: &[Entry], at: DateTime<Utc>) {
        let (decide, metrics) = (&self.decide, &self.metrics);
        let mut observe = |decision: &Decision<'_>| compare(decision, &decide(decision), metrics);
        if entries.is_empty()
            && let Some(replay) = &mut self.replay
        {
            replay.tick(at, &mut observe);
        }
        for entry in entries {
            let done = match (&mut self.replay, entry.kind) {
                (_, Kind::Snapshot) => Replay::begin(entry, &self.rules).map(|begun| self.replay = Some(begun)),
                (Some(replay), _) => replay.step_observed(entry, &self.rules, &mut observe).map(|_| ()),
                (None, _) => Ok(()),
            };
            if let Err(error) = done {
                tracing::debug!(error, "the shadow policy waits for the next snapshot");
                self.replay = None;
            }
        }
    }
}

/// Counts, by search, what it would have done otherwise.
fn compare(decision: &Decision<'_>, own: &[Assignment], metrics: &Metrics) {
    let count = |outcome: &str| metrics.match_shadow.with_label_values(&[outcome]).inc();
    let market = decision.marketplace;
    let eta_s = |assignment: &Assignment| {
        market.offered_eta_s(&market.waiting_one(assignment.request_id)?, assignment.driver.position)
    };
    for real in decision.assignments {
        match own.iter().find(|one| one.request_id == real.request_id) {
            Some(one) => {
                count(if one.driver.id == real.driver.id { "same_driver" } else { "other_driver" });
                if let Some((real_s, own_s)) = eta_s(real).zip(eta_s(one)) {
                    metrics.match_shadow_eta.with_label_values(&["real"]).inc_by(real_s);
                    metrics.match_shadow_eta.with_label_values(&["shadow"]).inc_by(own_s);
                }
            }
            None => count("only_real"),
        }
    }
    let is_only = |one: &&Assignment| !decision.assignments.iter().any(|real| real.request_id == one.request_id);
    own.iter().filter(is_only).for_each(|_| count("only_shadow"));
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use chrono::Duration;
    use streams::event::{UserBeacon, UserFinder};
    use streams::{MatchId, Position, RequestId, UserId, VehicleType};
    use uuid::Uuid;

    use super::*;
    use crate::Config;
    use crate::engine::{Engine, Input, step};
    use crate::positions::DriverPositions;
    use crate::record::Recorder;

    /// A matcher without a store: it makes the steps and shows them to the shadow.
    struct Matching {
        engine: Engine,
        positions: DriverPositions,
        recorder: Recorder,
        now: DateTime<Utc>,
        found: u128,
    }

    impl Matching {
        fn new() -> Self {
            Self {
                engine: Engine::new(Config::default().rules(crate::zones::Zone::ONLY)),
                positions: DriverPositions::default(),
                recorder: Recorder::new(1).with_all_moves(),
                now: DateTime::UNIX_EPOCH + Duration::days(20_000),
                found: 0,
            }
        }

        fn step(&mut self, inputs: &[Input<'_>], shadow: &mut Shadow) {
            let Self { engine, positions, recorder, now, found } = self;
            *now += Duration::seconds(1);
            let recording = recorder.before(engine, positions, inputs, *now);
            let mut ids = Vec::new();
            let output = step(engine, inputs, positions, *now, &mut |_| {
                *found += 1;
                ids.push(MatchId(Uuid::from_u128(*found)));
                ids[ids.len() - 1]
            });
            let recorded = recorder.after(recording, engine, positions, inputs, *now, (&ids, &output));
            shadow.see(recorded, engine.rules(), *now);
        }

        /// So many searches, each beside a driver of its own.
        fn searches(&mut self, count: u128, shadow: &mut Shadow) {
            for n in 0..count {
                let at = Position { lat: 40.0 + n as f64 / 10.0, lng: -74.0 };
                let user = |kind: u128| UserId(Uuid::from_u128(kind << 64 | n));
                let beacon = UserBeacon {
                    user_id: user(1),
                    active: true,
                    vehicle_type: VehicleType::Car,
                    location: at,
                    recorded_at: self.now,
                    located_at: None,
                    device: None,
                };
                self.step(&[Input::Beacon(&beacon, self.now)], shadow);
                let finder = UserFinder {
                    request_id: RequestId(Uuid::from_u128(3 << 64 | n)),
                    user_id: user(2),
                    active: true,
                    pickup: at,
                    dropoff: Position { lat: at.lat, lng: -74.1 },
                    vehicle_type: VehicleType::Car,
                    recorded_at: self.now,
                    market_id: None,
                    continues: None,
                    expires_at: None,
                };
                self.step(&[Input::Finder(&finder), Input::Tick], shadow);
            }
        }
    }

    fn count(metrics: &Metrics, outcome: &str) -> u64 {
        metrics.match_shadow.with_label_values(&[outcome]).get()
    }

    /// Waits until the thread has ended: nothing is left to be counted.
    fn with_shadow(
        decide: impl Fn(&Decision<'_>) -> Vec<Assignment> + Send + 'static,
        searches: u128,
    ) -> (u128, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let (ended, end) = mpsc::channel::<()>();
        let held = Mutex::new(Some(ended));
        let decide = move |decision: &Decision<'_>| {
            let _alive = held.lock();
            decide(decision)
        };
        let mut shadow = Shadow::with(Box::new(decide), &metrics);
        let mut matching = Matching::new();
        matching.searches(searches, &mut shadow);
        drop(shadow);
        // Ends with the closure, whose last act is to drop its sender.
        assert!(end.recv().is_err());
        (matching.found, metrics)
    }

    #[test]
    fn the_same_policy_agrees_with_every_decision() {
        let (found, metrics) = with_shadow(|d| d.marketplace.assign(Policy::Batched, d.is_affected), 50);
        assert!(found >= 50);
        assert_eq!(u128::from(count(&metrics, "same_driver")), found);
        for other in ["other_driver", "only_real", "only_shadow", "panicked", "dropped"] {
            assert_eq!(count(&metrics, other), 0, "{other}");
        }
        let eta = |of: &str| metrics.match_shadow_eta.with_label_values(&[of]).get();
        assert_eq!(eta("real"), eta("shadow"));
    }

    #[test]
    fn a_policy_that_panics_is_counted_and_matching_goes_on() {
        let (without, _) = with_shadow(|_| Vec::new(), 50);
        let (found, metrics) = with_shadow(|_| panic!("on purpose"), 50);
        assert_eq!(found, without);
        // After the first panic it waits for the next snapshot.
        assert_eq!((count(&metrics, "panicked"), count(&metrics, "same_driver")), (1, 0));
    }

    #[test]
    fn a_policy_that_never_returns_costs_matching_nothing() {
        let metrics = Arc::new(Metrics::new());
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Mutex::new(blocked);
        let decide = move |_: &Decision<'_>| {
            let _ = blocked.lock().unwrap().recv();
            Vec::new()
        };
        let mut shadow = Shadow::with(Box::new(decide), &metrics);
        let mut matching = Matching::new();
        matching.searches(150, &mut shadow);
        let (without, _) = with_shadow(|_| Vec::new(), 150);
        assert_eq!(matching.found, without, "all are matched while the shadow stands still");
        assert!(count(&metrics, "dropped") >= 300 - WAITING_MAX as u64 - 2, "{}", count(&metrics, "dropped"));
        drop(release);
    }
}
