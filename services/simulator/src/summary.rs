//! The result of a run, and its table for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::checker::Checker;
use crate::statistics::{Counter, Distribution, Statistics};

#[derive(Debug, Clone, Default)]
pub struct Summary {
    pub elapsed: Duration,
    /// Rides that ended with a fare.
    pub completed: u64,
    /// Rides with a fare, and the sum of their fares in minor units, by currency.
    pub fares: BTreeMap<String, (u64, i64)>,
    pub cancelled: u64,
    /// Cancelled rides by the event's field `by`.
    pub cancelled_by: BTreeMap<String, u64>,
    /// Rides that had not ended when the run did.
    pub unfinished: u64,
    pub searches: u64,
    pub searches_cancelled: u64,
    /// Searches that found no ride within the passenger's patience.
    pub unserved: u64,
    /// Offers that drivers received; the next four are those that did not become rides.
    pub offers: u64,
    /// By the driver.
    pub declined: u64,
    /// Not answered in time.
    pub expired: u64,
    /// The passenger ended the search.
    pub offers_cancelled: u64,
    /// The driver or the passenger had another ride.
    pub superseded: u64,
    /// `pickup_eta_s` of the offers that became rides, seconds.
    pub pickup_eta_s: Option<Distribution>,
    /// All billed distance over all driven distance of completed rides.
    pub billed_of_all: Option<f64>,
    /// Billed over driven distance of each completed ride.
    pub billed_share: Option<Distribution>,
    /// Milliseconds: from each command that was sent once to its ack, and the waits for `match.found` and `ride.pickup`.
    pub latencies_ms: BTreeMap<&'static str, Distribution>,
    pub events: u64,
    /// Of these, received again under the same `seq`.
    pub repeated_events: u64,
    /// Ride events that arrived after one of the same ride with a higher version.
    pub late_versions: u64,
    /// Connections after the first of each person.
    pub reconnects: u64,
    /// Connections cut on purpose.
    pub cuts: u64,
    /// Apps installed again, which had forgotten everything.
    pub reinstalls: u64,
    /// Commands sent again for want of an answer.
    pub retries: u64,
    /// Commands sent twice on purpose.
    pub repeats_sent: u64,
    pub points: u64,
    /// Positions of their drivers that passengers received.
    pub live_positions: u64,
    /// Rides whose passengers received one.
    pub rides_seen_live: u64,
    /// Wrong PINs given on purpose.
    pub wrong_pins: u64,
    /// Commands that the platform had to refuse: only somebody else may send them.
    pub forbidden_commands: u64,
    /// Refused commands by type and code. Most are races that the contract allows.
    pub refusals: BTreeMap<String, u64>,
    /// Rides that were read over HTTP at the end and compared with their events.
    pub rides_compared: u64,
    /// Trips of the file that were left out.
    pub skipped_trips: u64,
    /// The violated invariants of the platform, with ids. Empty: the platform passed.
    pub violations: Vec<String>,
}

impl Summary {
    pub(crate) fn new(elapsed: Duration, statistics: &Statistics, checker: &Checker) -> Self {
        let count = |counter| statistics.count(counter);
        Self {
            elapsed,
            completed: count(Counter::RidesCompleted),
            fares: statistics.fares().clone(),
            cancelled: count(Counter::RidesCancelled),
            cancelled_by: statistics.cancelled_by().clone(),
            unfinished: checker.unfinished_rides() as u64,
            searches: count(Counter::SearchesBegun),
            searches_cancelled: count(Counter::SearchesCancelled),
            unserved: count(Counter::SearchesUnserved),
            offers: count(Counter::Offers),
            declined: count(Counter::OffersDeclined),
            expired: count(Counter::OffersExpired),
            offers_cancelled: count(Counter::OffersCancelled),
            superseded: count(Counter::OffersSuperseded),
            pickup_eta_s: statistics.pickup_eta_s.distribution(),
            billed_of_all: statistics.billed_of_all(),
            billed_share: statistics.billed_share.distribution(),
            latencies_ms: statistics.latencies_ms(),
            events: count(Counter::EventsReceived),
            repeated_events: count(Counter::EventsRepeated),
            late_versions: checker.late_versions(),
            reconnects: count(Counter::Reconnects),
            cuts: count(Counter::Cuts),
            reinstalls: count(Counter::Reinstalls),
            retries: count(Counter::CommandsRetried),
            repeats_sent: count(Counter::CommandsRepeated),
            points: count(Counter::PositionsSent),
            live_positions: count(Counter::LivePositions),
            rides_seen_live: checker.rides_seen_live(),
            wrong_pins: count(Counter::WrongPins),
            forbidden_commands: count(Counter::ForbiddenCommands),
            refusals: statistics.refusals().clone(),
            rides_compared: 0,
            skipped_trips: 0,
            violations: checker.violations(),
        }
    }

    /// Whether every invariant held.
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    /// Name, number and explanation of each line of the table.
    fn rows(&self) -> Vec<(&'static str, String, String)> {
        let row = |name, number: u64, note: String| (name, number.to_string(), note);
        let cancelled_by: Vec<_> = self.cancelled_by.iter().map(|(by, count)| format!("{count} by {by}")).collect();
        let fare =
            |(currency, (rides, sum)): (&String, &(u64, i64))| format!("{currency}: {rides} rides, {sum} minor units");
        let fares: Vec<_> = self.fares.iter().map(fare).collect();
        let mut rows = vec![
            row("rides completed", self.completed, format!("in {:.1} s", self.elapsed.as_secs_f64())),
            row("currencies", self.fares.len() as u64, fares.join("; ")),
            row("rides cancelled", self.cancelled, cancelled_by.join(", ")),
            row("rides without an end", self.unfinished, String::new()),
            row("rides read over HTTP", self.rides_compared, "and compared with their events".to_owned()),
            row(
                "searches",
                self.searches,
                format!("{} cancelled, {} unserved", self.searches_cancelled, self.unserved),
            ),
            row(
                "offers",
                self.offers,
                format!(
                    "{} declined, {} expired, {} cancelled, {} superseded",
                    self.declined, self.expired, self.offers_cancelled, self.superseded
                ),
            ),
        ];
        if let Some(eta) = &self.pickup_eta_s {
            rows.push(("pickup ETA", format!("{:.0}", eta.p50), format!("s median, {:.0} s mean", eta.mean)));
        }
        if let (Some(of_all), Some(share)) = (self.billed_of_all, &self.billed_share) {
            rows.push((
                "billed / driven distance",
                format!("{of_all:.3}"),
                format!("of all rides; of one {:.2} median, {:.2} mean", share.p50, share.mean),
            ));
        }
        rows.extend([
            row("positions sent", self.points, String::new()),
            row("live positions received", self.live_positions, format!("in {} rides", self.rides_seen_live)),
            row(
                "events received",
                self.events,
                format!("{} repeated, {} after a newer one of their ride", self.repeated_events, self.late_versions),
            ),
            row(
                "reconnects",
                self.reconnects,
                format!("{} connections cut on purpose, {} apps installed again", self.cuts, self.reinstalls),
            ),
            row("commands sent again", self.retries, "for want of an answer".to_owned()),
            row("commands sent twice", self.repeats_sent, "on purpose".to_owned()),
            row("wrong PINs", self.wrong_pins, "on purpose".to_owned()),
            row("forbidden commands", self.forbidden_commands, "on purpose".to_owned()),
        ]);
        if self.skipped_trips > 0 {
            rows.push(row("trips left out", self.skipped_trips, "too short, too long or impossible".to_owned()));
        }
        rows
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, number, note) in self.rows() {
            writeln!(f, "{}", format!("{name:<40}{number:>8}  {note}").trim_end())?;
        }
        if !self.refusals.is_empty() {
            writeln!(f, "\n{:<40}{:>8}", "refused", "count")?;
            for (what, count) in &self.refusals {
                writeln!(f, "  {what:<38}{count:>8}")?;
            }
        }
        if !self.latencies_ms.is_empty() {
            writeln!(f, "\n{:<40}{:>8}{:>11}{:>11}{:>11}", "latency", "count", "p50 ms", "p99 ms", "max ms")?;
            for (what, d) in &self.latencies_ms {
                writeln!(f, "  {what:<38}{:>8}{:>11.1}{:>11.1}{:>11.1}", d.count, d.p50, d.p99, d.max)?;
            }
        }
        writeln!(f, "\n{:<40}{:>8}", "violated invariants", self.violations.len())?;
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
        let mut statistics = Statistics::default();
        statistics.increment(Counter::RidesCompleted);
        statistics.cancellation("driver");
        statistics.latency("match.accept → ack", Duration::from_millis(12));
        statistics.refusal("ride.start", "wrong_pin");
        let mut checker = Checker::default();
        checker.violation("ride 7: charged two times".to_owned());
        let summary = Summary::new(Duration::from_secs(3), &statistics, &checker);
        let table = summary.to_string();
        for part in ["1  in 3.0 s", "1  1 by driver", "12.0", "ride.start: wrong_pin", "  ride 7: charged two times"] {
            assert!(table.contains(part), "no `{part}` in:\n{table}");
        }
        assert!(!summary.passed());
    }
}
