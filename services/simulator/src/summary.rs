//! What a run came to, and its table. It owns the words; the numbers are counted elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::checker::Checks;
use crate::statistics::{Count, Distribution, Tally};

/// The outcome of a run. Durations in `latencies_ms` and `waits_ms` are milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// How long the run took.
    pub elapsed: Duration,
    /// Rides that ended with a fare.
    pub completed: u64,
    /// Rides that were cancelled.
    pub cancelled: u64,
    /// Of these, by whom: `driver`, `passenger`, `system`.
    pub cancelled_by: BTreeMap<String, u64>,
    /// Rides that had not ended when the run did.
    pub unfinished: u64,
    /// Searches that passengers began.
    pub searches: u64,
    /// Searches that passengers ended of their own will.
    pub searches_cancelled: u64,
    /// Searches that found no ride within the passenger's patience.
    pub unserved: u64,
    /// Offers, as drivers saw them, and how those that gave no ride ended.
    pub offers: u64,
    /// By the driver.
    pub declined: u64,
    /// No answer in time.
    pub expired: u64,
    /// The passenger ended the search.
    pub offers_cancelled: u64,
    /// One of the two had another ride.
    pub superseded: u64,
    /// `pickup_eta_s` of the offers that became rides, seconds.
    pub pickup_eta_s: Option<Distribution>,
    /// Billed distance over driven distance of completed rides; near 1 if `TRACK_MAX_SPEED_MPS` suits the speed.
    pub billed_share: Option<Distribution>,
    /// Each command until its ack when it was sent once, and the waits for match.found and ride.pickup.
    pub latencies_ms: BTreeMap<&'static str, Distribution>,
    /// Events received.
    pub events: u64,
    /// Of these, received again under the same `seq`.
    pub repeated_events: u64,
    /// Ride events that came after a later one of the same ride.
    pub late_versions: u64,
    /// Connections after the first of each person.
    pub reconnects: u64,
    /// Connections that were cut on purpose.
    pub cuts: u64,
    /// Commands sent again for want of an answer.
    pub retries: u64,
    /// Commands sent two times on purpose.
    pub repeats_sent: u64,
    /// Positions sent.
    pub points: u64,
    /// Wrong PINs given on purpose.
    pub wrong_pins: u64,
    /// Things tried that were not theirs to do.
    pub forbidden_commands: u64,
    /// Refused commands by name and code; most are races that the contract allows.
    pub refusals: BTreeMap<String, u64>,
    /// Rides whose state was asked for at the end and compared.
    pub rides_compared: u64,
    /// Trips of the file that could not be used.
    pub skipped_requests: u64,
    /// Invariants of the platform that did not hold, in words with ids. None means that the platform passed.
    pub violations: Vec<String>,
}

impl Summary {
    pub(crate) fn new(elapsed: Duration, tally: &Tally, checks: &Checks) -> Self {
        let count = |what| tally.count(what);
        Self {
            elapsed,
            completed: count(Count::Completed),
            cancelled: count(Count::Cancelled),
            cancelled_by: tally.cancelled_by().clone(),
            unfinished: checks.unfinished_rides() as u64,
            searches: count(Count::SearchesBegun),
            searches_cancelled: count(Count::SearchesCancelled),
            unserved: count(Count::SearchesUnserved),
            offers: count(Count::Offers),
            declined: count(Count::Declined),
            expired: count(Count::Expired),
            offers_cancelled: count(Count::OffersCancelled),
            superseded: count(Count::Superseded),
            pickup_eta_s: tally.pickup_eta_s.distribution(),
            billed_share: tally.billed_share.distribution(),
            latencies_ms: tally.latencies(),
            events: count(Count::Events),
            repeated_events: count(Count::RepeatedEvents),
            late_versions: checks.late_versions(),
            reconnects: count(Count::Reconnects),
            cuts: count(Count::Cuts),
            retries: count(Count::Retries),
            repeats_sent: count(Count::RepeatsSent),
            points: count(Count::Points),
            wrong_pins: count(Count::WrongPins),
            forbidden_commands: count(Count::Trespasses),
            refusals: tally.refusals().clone(),
            rides_compared: 0,
            skipped_requests: 0,
            violations: checks.texts(),
        }
    }

    /// Whether every invariant held.
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "{name:<28}{value}");
        let cancelled_by: Vec<_> = self.cancelled_by.iter().map(|(who, many)| format!("{many} by {who}")).collect();
        let mut cancelled = self.cancelled.to_string();
        if !cancelled_by.is_empty() {
            cancelled += &format!(" ({})", cancelled_by.join(", "));
        }
        row("rides completed", format!("{} in {:.1} s", self.completed, self.elapsed.as_secs_f64()))?;
        row("rides cancelled", cancelled)?;
        row("rides unfinished", self.unfinished.to_string())?;
        row("searches", format!("{}, cancelled {}", self.searches, self.searches_cancelled))?;
        row("searches unserved", self.unserved.to_string())?;
        row(
            "offers",
            format!(
                "{}, declined {}, expired {}, cancelled {}, superseded {}",
                self.offers, self.declined, self.expired, self.offers_cancelled, self.superseded
            ),
        )?;
        if let Some(eta) = &self.pickup_eta_s {
            row("pickup ETA", format!("mean {:.0} s, p50 {:.0} s", eta.mean, eta.p50))?;
        }
        if let Some(share) = &self.billed_share {
            row("billed / driven distance", format!("mean {:.2}, p50 {:.2}", share.mean, share.p50))?;
        }
        row("events received", format!("{}, repeated {}", self.events, self.repeated_events))?;
        row("late ride versions", self.late_versions.to_string())?;
        row("reconnects", format!("{} ({} cut on purpose)", self.reconnects, self.cuts))?;
        row("retries", format!("{} (and {} repeats on purpose)", self.retries, self.repeats_sent))?;
        row("positions sent", self.points.to_string())?;
        row("wrong PINs, trespasses", format!("{}, {}", self.wrong_pins, self.forbidden_commands))?;
        row("rides audited over HTTP", self.rides_compared.to_string())?;
        if self.skipped_requests > 0 {
            row("trips skipped", self.skipped_requests.to_string())?;
        }
        if !self.refusals.is_empty() {
            writeln!(f, "refusals")?;
            for (what, many) in &self.refusals {
                writeln!(f, "  {what:<38}{many:>8}")?;
            }
        }
        if !self.latencies_ms.is_empty() {
            writeln!(f, "{:<40}{:>8}{:>11}{:>11}{:>11}", "latency", "count", "p50 ms", "p99 ms", "max ms")?;
            for (what, d) in &self.latencies_ms {
                writeln!(f, "  {what:<38}{:>8}{:>11.1}{:>11.1}{:>11.1}", d.count, d.p50, d.p99, d.max)?;
            }
        }
        writeln!(f, "{:<28}{}", "violations", self.violations.len())?;
        for violation in &self.violations {
            writeln!(f, "  {violation}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_rides_latencies_and_violations() {
        let mut tally = Tally::default();
        tally.add(Count::Completed);
        tally.cancelled("driver");
        tally.took("match.accept → ack", Duration::from_millis(12));
        tally.refused("ride.start", "wrong_pin");
        let mut checks = Checks::default();
        checks.violation("ride 7: charged two times".to_owned());
        let summary = Summary::new(Duration::from_secs(3), &tally, &checks);
        let table = summary.to_string();
        for part in ["1 in 3.0 s", "1 (1 by driver)", "12.0", "ride.start: wrong_pin", "  ride 7: charged two times"] {
            assert!(table.contains(part), "no `{part}` in:\n{table}");
        }
        assert!(!summary.passed());
    }
}
