//! The circuit breakers of one purpose, one for each host, and what health and metrics say of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use crate::Platform;
use crate::breaker::{Circuit, Rules, State};
use crate::telemetry::{Health, Metrics};
use crate::world::World;

/// Hosts of a purpose that are remembered; of the others the one used longest ago is forgotten first, with its failures.
const HOSTS_MAX: usize = 1_024;

#[derive(Debug)]
pub(super) struct Circuits {
    purpose: &'static str,
    rules: Rules,
    /// With the time of the last request.
    hosts: Mutex<BTreeMap<String, (Circuit, DateTime<Utc>)>>,
    world: World,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

impl Circuits {
    pub(super) fn new(platform: &Platform, purpose: &'static str, rules: Rules) -> Self {
        let circuits = Self {
            purpose,
            rules,
            hosts: Mutex::default(),
            world: platform.world.clone(),
            metrics: platform.metrics.clone(),
            health: platform.health.clone(),
        };
        circuits.report(State::Closed, 0);
        circuits
    }

    /// Whether a request may be sent to `host` now. After it, [`succeeded`](Self::succeeded) or [`failed`](Self::failed) is
    /// called; if it is not, another may be sent after a while.
    pub(super) fn admits(&self, host: &str) -> bool {
        let admitted = self.change(host, |circuit, now| circuit.admits(now));
        if !admitted {
            self.metrics.breaker_refused.with_label_values(&[self.purpose]).inc();
        }
        admitted
    }

    /// The host answered, and not that it does not work.
    pub(super) fn succeeded(&self, host: &str) {
        self.change(host, |circuit, _| circuit.succeeded());
    }

    pub(super) fn failed(&self, host: &str) {
        self.change(host, Circuit::failed);
    }

    pub(super) fn count(&self, outcome: &str) {
        self.metrics.http_requests.with_label_values(&[self.purpose, outcome]).inc();
    }

    fn change<T>(&self, host: &str, change: impl FnOnce(&mut Circuit, DateTime<Utc>) -> T) -> T {
        let now = self.world.now();
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if !hosts.contains_key(host) && hosts.len() >= HOSTS_MAX {
            let oldest = hosts.iter().min_by_key(|(_, (_, used_at))| *used_at).map(|(host, _)| host.clone());
            oldest.map(|oldest| hosts.remove(&oldest));
        }
        let (circuit, used_at) = hosts.entry(host.to_owned()).or_insert_with(|| (Circuit::new(self.rules), now));
        *used_at = now;
        let before = circuit.state();
        let result = change(circuit, now);
        let after = circuit.state();
        if before == after {
            return result;
        }
        // The purpose is well while one of its hosts answers: which hosts there are may be up to users.
        let state = hosts.values().map(|(circuit, _)| circuit.state()).min_by_key(|state| state.value());
        let open = hosts.values().filter(|(circuit, _)| circuit.state() != State::Closed).count();
        drop(hosts);
        self.report(state.unwrap_or(State::Closed), open);
        // A host may be named by a user, and part of a secret address: it is not logged.
        match after {
            State::Open => {
                tracing::warn!(purpose = self.purpose, "a host does not answer: nothing is sent for a while")
            }
            State::HalfOpen => {
                tracing::info!(purpose = self.purpose, "one request is sent, to see whether it is answered")
            }
            State::Closed => tracing::info!(purpose = self.purpose, "a host answers again"),
        }
        result
    }

    fn report(&self, state: State, open: usize) {
        self.metrics.breakers.with_label_values(&[self.purpose]).set(state.value());
        self.metrics.http_hosts_open.with_label_values(&[self.purpose]).set(open as i64);
        self.health.set_breaker(self.purpose, state.as_str());
    }
}
