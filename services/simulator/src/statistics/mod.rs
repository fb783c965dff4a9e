//! What a run counts and measures. No clock.

mod samples;

use std::collections::BTreeMap;
use std::time::Duration;

pub use samples::Distribution;
pub(crate) use samples::Samples;
use serde_json::Value;

/// The most different refusals that are counted.
const REFUSALS_MAX: usize = 100;
/// The most currencies.
const CURRENCIES_MAX: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Counter {
    SearchesBegun,
    SearchesCancelled,
    /// Searches that the passenger gave up without a ride.
    SearchesUnserved,
    Offers,
    OffersDeclined,
    OffersExpired,
    OffersCancelled,
    OffersSuperseded,
    RidesCompleted,
    RidesCancelled,
    EventsReceived,
    /// Of these, received again under the same `seq`.
    EventsRepeated,
    Reconnects,
    /// Connections cut on purpose.
    Cuts,
    /// Apps installed again, which have forgotten everything.
    Reinstalls,
    CommandsRetried,
    /// Commands sent twice on purpose.
    CommandsRepeated,
    PositionsSent,
    /// Positions of their drivers that passengers received.
    LivePositions,
    WrongPins,
    ForbiddenCommands,
}

#[derive(Debug, Default)]
pub(crate) struct Statistics {
    counters: BTreeMap<Counter, u64>,
    refusals: BTreeMap<String, u64>,
    cancelled_by: BTreeMap<String, u64>,
    /// Rides and minor units, by currency.
    fares: BTreeMap<String, (u64, i64)>,
    latencies_ms: BTreeMap<&'static str, Samples>,
    pub(crate) pickup_eta_s: Samples,
    /// Billed over driven distance of completed rides.
    pub(crate) billed_share: Samples,
    /// Billed and driven metres of these rides together.
    billed_m: f64,
    driven_m: f64,
}

impl Statistics {
    pub(crate) fn increment(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    pub(crate) fn add(&mut self, counter: Counter, count: u64) {
        *self.counters.entry(counter).or_default() += count;
    }

    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.counters.get(&counter).copied().unwrap_or(0)
    }

    /// The distances of a completed ride, metres.
    pub(crate) fn billed(&mut self, billed_m: f64, driven_m: f64) {
        if driven_m > 0.0 {
            self.billed_share.add(billed_m / driven_m);
            self.billed_m += billed_m;
            self.driven_m += driven_m;
        }
    }

    /// All billed distance over all driven distance; `None` without any.
    pub(crate) fn billed_of_all(&self) -> Option<f64> {
        (self.driven_m > 0.0).then(|| self.billed_m / self.driven_m)
    }

    /// The platform refused `what` with this code.
    pub(crate) fn refusal(&mut self, what: &str, code: &str) {
        let name = format!("{what}: {code}");
        if self.refusals.len() < REFUSALS_MAX || self.refusals.contains_key(&name) {
            *self.refusals.entry(name).or_default() += 1;
        }
    }

    /// A ride was completed; the event's body has its fare.
    pub(crate) fn completed(&mut self, event: &Value) {
        self.increment(Counter::RidesCompleted);
        let total = &event["fare"]["total"];
        let (Some(amount), Some(currency)) = (total["amount"].as_i64(), total["currency"].as_str()) else { return };
        if self.fares.len() < CURRENCIES_MAX || self.fares.contains_key(currency) {
            let (rides, sum) = self.fares.entry(currency.to_owned()).or_default();
            (*rides, *sum) = (*rides + 1, *sum + amount);
        }
    }

    pub(crate) fn fares(&self) -> &BTreeMap<String, (u64, i64)> {
        &self.fares
    }

    /// A ride was cancelled; `by` is the event's field.
    pub(crate) fn cancellation(&mut self, by: &str) {
        self.increment(Counter::RidesCancelled);
        *self.cancelled_by.entry(by.to_owned()).or_default() += 1;
    }

    pub(crate) fn latency(&mut self, what: &'static str, duration: Duration) {
        self.latencies_ms.entry(what).or_default().add(duration.as_secs_f64() * 1000.0);
    }

    pub(crate) fn latencies_ms(&self) -> BTreeMap<&'static str, Distribution> {
        self.latencies_ms.iter().filter_map(|(what, samples)| Some((*what, samples.distribution()?))).collect()
    }

    pub(crate) fn refusals(&self) -> &BTreeMap<String, u64> {
        &self.refusals
    }

    pub(crate) fn cancelled_by(&self) -> &BTreeMap<String, u64> {
        &self.cancelled_by
    }
}
