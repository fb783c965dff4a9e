//! A circuit breaker for requests to something outside: after failures in a row no more are sent for a while, so that callers
//! get their refusal at once and what does not answer is left in peace.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Duration, Utc};

use crate::Platform;
use crate::telemetry::{Health, Metrics};
use crate::world::World;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Failures in a row that open it.
    pub failures_max: u32,
    /// Then nothing is sent for so long; after that, one request.
    pub open_for: Duration,
}

/// What a breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Every request.
    Closed,
    /// One request, whose outcome decides.
    HalfOpen,
    /// None.
    Open,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

/// The rule, without clock and lock.
#[derive(Debug, Clone, Copy)]
struct Circuit {
    rules: Rules,
    /// In a row.
    failures: u32,
    /// While it is not closed: until when it is open, or until when the one request has to end.
    until: Option<(State, DateTime<Utc>)>,
}

impl Circuit {
    fn state(&self) -> State {
        self.until.map_or(State::Closed, |(state, _)| state)
    }

    /// Whether a request may be sent now. A caller that sends it reports the outcome; if it does not, another may be sent after
    /// the same time.
    fn admits(&mut self, now: DateTime<Utc>) -> bool {
        match self.until {
            None => true,
            Some((_, until)) if now < until => false,
            Some(_) => {
                self.until = Some((State::HalfOpen, now + self.rules.open_for));
                true
            }
        }
    }

    fn succeeded(&mut self) {
        (self.failures, self.until) = (0, None);
    }

    fn failed(&mut self, now: DateTime<Utc>) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.rules.failures_max {
            self.until = Some((State::Open, now + self.rules.open_for));
        }
    }
}

/// The breaker of one kind of request, with its state in health and metrics.
#[derive(Debug)]
pub struct Breaker {
    name: &'static str,
    circuit: Mutex<Circuit>,
    world: World,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

impl Breaker {
    /// `name` is its name in health and metrics.
    pub fn new(platform: &Platform, name: &'static str, rules: Rules) -> Self {
        let breaker = Self {
            name,
            circuit: Mutex::new(Circuit { rules, failures: 0, until: None }),
            world: platform.world.clone(),
            metrics: platform.metrics.clone(),
            health: platform.health.clone(),
        };
        breaker.report(State::Closed);
        breaker
    }

    /// Whether a request may be sent. After it, [`succeeded`](Self::succeeded) or [`failed`](Self::failed) must be called.
    pub fn admits(&self) -> bool {
        let admitted = self.change(|circuit, now| circuit.admits(now));
        if !admitted {
            self.metrics.breaker_refused.with_label_values(&[self.name]).inc();
        }
        admitted
    }

    /// There was an answer, of whatever kind.
    pub fn succeeded(&self) {
        self.change(|circuit, _| circuit.succeeded());
    }

    /// There was no answer, or one that says that the other side does not work.
    pub fn failed(&self) {
        self.change(Circuit::failed);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Circuit, DateTime<Utc>) -> T) -> T {
        let now = self.world.now();
        let mut circuit = self.circuit.lock().unwrap_or_else(PoisonError::into_inner);
        let before = circuit.state();
        let result = change(&mut circuit, now);
        let after = circuit.state();
        drop(circuit);
        if before != after {
            self.report(after);
            match after {
                State::Open => tracing::warn!(breaker = self.name, "no answers: nothing is sent for a while"),
                State::HalfOpen => {
                    tracing::info!(breaker = self.name, "one request is sent, to see whether it is answered")
                }
                State::Closed => tracing::info!(breaker = self.name, "there are answers again"),
            }
        }
        result
    }

    fn report(&self, state: State) {
        let value = match state {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        };
        self.metrics.breakers.with_label_values(&[self.name]).set(value);
        self.health.set_breaker(self.name, state.as_str());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { failures_max: 3, open_for: Duration::seconds(10) };

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_one_answer() {
        let mut circuit = Circuit { rules: RULES, failures: 0, until: None };
        let fail = |circuit: &mut Circuit, second| {
            assert!(circuit.admits(at(second)), "{second}");
            circuit.failed(at(second));
        };
        fail(&mut circuit, 0);
        fail(&mut circuit, 0);
        circuit.succeeded();
        fail(&mut circuit, 1);
        fail(&mut circuit, 1);
        assert_eq!(circuit.state(), State::Closed, "not three in a row");
        fail(&mut circuit, 2);
        assert_eq!(circuit.state(), State::Open);
        assert!(!circuit.admits(at(11)));
        assert!(circuit.admits(at(12)));
        assert_eq!(circuit.state(), State::HalfOpen);
        assert!(!circuit.admits(at(12)), "one request only");
        circuit.failed(at(13));
        assert_eq!(circuit.state(), State::Open, "open again at once");
        assert!(!circuit.admits(at(22)));
        assert!(circuit.admits(at(23)));
        assert!(circuit.admits(at(33)), "the one before reported nothing");
        circuit.succeeded();
        assert_eq!(circuit.state(), State::Closed);
        assert!(circuit.admits(at(33)) && circuit.admits(at(33)));
    }

    #[tokio::test(start_paused = true)]
    async fn its_state_is_in_health_and_metrics() {
        let world = World::seeded(at(0), 1);
        let bus = streams::Bus::Memory(streams::memory::MemoryBus::new(at(0), 1));
        let platform = Platform::new(world, bus, "test");
        let breaker = Breaker::new(&platform, "webhook", RULES);
        assert_eq!(platform.health.breakers(), [("webhook", "closed")]);
        for _ in 0..3 {
            assert!(breaker.admits());
            breaker.failed();
        }
        assert!(!breaker.admits());
        assert_eq!(platform.health.breakers(), [("webhook", "open")]);
        let text = platform.metrics.text(&platform.health);
        assert!(text.contains("rideshare_breaker_state{breaker=\"webhook\"} 2"), "{text}");
        assert!(text.contains("rideshare_breaker_refused_total{breaker=\"webhook\"} 1"), "{text}");
    }
}
