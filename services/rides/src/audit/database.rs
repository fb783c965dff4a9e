//! The tables by themselves: a ride's row, its event log, its ledger entries and its payment; pure. Rows in, findings out.

use std::collections::{BTreeMap, BTreeSet};

use streams::{Currency, Event, Money, RideId};

use super::findings::{Finding, Findings};
use crate::event_log::EventRow;
use crate::hash_chain;
use crate::ledger::{self, Entry, Kind, Movement};
use crate::payment::{Debt, Payment, PaymentStatus};
use crate::refund::{self, Refund};
use crate::replay;
use crate::ride::rows::to_row;
use crate::ride::{Bill, Ride};

/// All that the tables have about one ride.
#[derive(Debug, Clone, PartialEq)]
pub struct RideRecords {
    pub ride_id: RideId,
    pub row: Option<Ride>,
    /// By version.
    pub events: Vec<EventRow>,
    pub entries: Vec<Entry>,
    /// A sound ride has at most one.
    pub payments: Vec<Payment>,
    pub debts: Vec<Debt>,
    /// By time.
    pub refunds: Vec<Refund>,
}

impl RideRecords {
    pub(super) fn new(ride_id: RideId) -> Self {
        let (events, entries, payments, debts, refunds) = Default::default();
        Self { ride_id, row: None, events, entries, payments, debts, refunds }
    }
}

/// The state of the check.
#[derive(Debug, Default)]
pub struct DatabaseAudit {
    pub findings: Findings,
    /// Rides checked.
    pub rides: u64,
    /// Of them, those that have not ended.
    pub live: u64,
    /// Events checked.
    pub events: u64,
    /// Ledger entries checked.
    pub entries: u64,
}

impl DatabaseAudit {
    /// Checks the next ride; returns whether it is sound.
    pub fn check(&mut self, records: &RideRecords) -> bool {
        let before = self.findings.count();
        self.rides += 1;
        self.events += records.events.len() as u64;
        self.entries += records.entries.len() as u64;
        let replayed = self.replay(records);
        let id = records.ride_id;
        match (&records.row, &replayed) {
            (Some(row), Some((replayed, _))) => {
                self.live += u64::from(!row.status.is_final());
                for what in row_differences(row, replayed) {
                    self.findings.push(Finding::of_event(id, replayed.version, None, what));
                }
            }
            (Some(_), None) => self.findings.push(Finding::of_ride(id, "it has a row and no event")),
            (None, Some(_)) => self.findings.push(Finding::of_ride(id, "it has events and no row")),
            (None, None) => {
                self.findings.push(Finding::of_ride(id, "it has neither row nor event, but entries in the ledger"))
            }
        }
        if let Some((ride, bill)) = replayed {
            for what in money_differences(&ride, bill.as_ref(), records) {
                self.findings.push(Finding::of_event(id, ride.version, None, what));
            }
        }
        self.findings.count() == before
    }

    /// Checks the event log of a ride and replays it: the ride that it leads to, and the bill of its last event.
    fn replay(&mut self, records: &RideRecords) -> Option<(Ride, Option<Bill>)> {
        let mut replayed: Option<(Ride, Option<Bill>)> = None;
        for logged in &records.events {
            let mut wrong = |what: String| {
                let what = format!("in the database, {what}");
                self.findings.push(Finding::of_event(logged.ride_id, logged.version, None, what));
            };
            let (event, hash) = match hash_chain::parse_body(&logged.subject, logged.body.as_bytes()) {
                Ok(parsed) => parsed,
                Err(error) => {
                    wrong(error.reason());
                    continue;
                }
            };
            if let Err(error) = hash_chain::check_hash(&event, hash) {
                wrong(error.reason());
            }
            let before = replayed.as_ref().map(|(ride, _)| ride);
            if let Err(error) = replay::validate(before, &event) {
                wrong(error.reason());
            }
            let id = Event::Ride(Box::new(event.clone())).message_id(event.occurred_at);
            for (column, same) in [
                ("ride_id", logged.ride_id == event.ride_id),
                ("version", logged.version == event.version),
                ("hash", logged.hash == event.hash),
                ("occurred_at", logged.occurred_at == event.occurred_at),
                ("message_id", logged.message_id == id),
            ] {
                if !same {
                    wrong(format!("the column {column} is not what the body says"));
                }
            }
            replayed = Some(replay::apply(before, &event));
        }
        replayed
    }
}

/// The columns of a ride's row that are not what its events lead to.
fn row_differences(row: &Ride, replayed: &Ride) -> Vec<String> {
    if row == replayed {
        return Vec::new();
    }
    let (row, replayed) = (to_row(row), to_row(replayed));
    let differing = row.iter().filter(|(column, value)| replayed.get(*column) != Some(*value));
    differing
        .map(|(column, value)| format!("the ride's row has {column} {value}, its events say {}", replayed[column]))
        .collect()
}

/// Minor units by account and currency.
type Lines = BTreeMap<(String, Currency), i64>;

/// What is wrong in the ledger and the payments of a ride whose last event billed `bill`.
fn money_differences(ride: &Ride, bill: Option<&Bill>, records: &RideRecords) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines = |kind: Kind| -> Lines {
        let mut lines = Lines::new();
        for entry in records.entries.iter().filter(|e| e.kind == kind) {
            *lines.entry((entry.account.clone(), entry.amount.currency)).or_default() += entry.amount.amount;
        }
        lines
    };
    let billed = bill.and_then(|bill| ledger::billed(ride, bill).ok());
    for kind in [Kind::Fare, Kind::Cancellation] {
        let expected = billed.as_ref().filter(|due| due.kind == kind);
        let expected = expected.map(lines_of).unwrap_or_default();
        compare_lines(kind, &lines(kind), &expected, &mut wrong);
    }
    let payment = match (bill, &records.payments[..]) {
        (None, []) => None,
        (None, _) => {
            wrong.push("it has a payment, and nothing was billed".to_owned());
            None
        }
        (Some(bill), [payment]) => {
            // A process of the version before stores no market.
            let market_id = payment.market_id.clone().and(ride.market_id.clone());
            let due = Payment { market_id, ..Payment::due(ride, bill.total) };
            if !due.is_for(&payment.capture()) || due.created_at != payment.created_at {
                wrong.push(format!("its payment is {payment:?}, and what was billed {due:?}"));
            }
            Some(payment)
        }
        (Some(_), found) => {
            wrong.push(format!("it was billed once and has {} payments", found.len()));
            None
        }
    };
    let captured = lines(Kind::Capture);
    let captured_payment = payment.filter(|p| p.status == PaymentStatus::Captured);
    let provider =
        captured.keys().find_map(|(account, _)| account.strip_prefix(ledger::CASH)).unwrap_or("(no provider)");
    let expected = captured_payment.and_then(|payment| ledger::captured(payment, provider).ok());
    let expected = expected.as_ref().map(lines_of).unwrap_or_default();
    compare_lines(Kind::Capture, &captured, &expected, &mut wrong);
    refund_differences(captured_payment, records, &lines, &mut wrong);
    let refused = payment.filter(|p| p.status == PaymentStatus::Refused);
    let debts: Vec<_> = records.debts.iter().map(|d| (d.payment_id, d.amount)).collect();
    if debts != refused.iter().map(|p| (p.payment_id, p.amount)).collect::<Vec<_>>() {
        wrong.push(format!("its debts are {debts:?}, and refused was {:?}", refused.map(|p| (p.payment_id, p.amount))));
    }
    wrong
}

/// What is wrong with the refunds of a ride: each has its movement of the ledger, there is no other, and all are of what was captured.
fn refund_differences(
    captured: Option<&Payment>,
    records: &RideRecords,
    lines: &impl Fn(Kind) -> Lines,
    wrong: &mut Vec<String>,
) {
    let of_rows = records.refunds.iter().map(|refund| refund.refund_id);
    let of_ledger = records.entries.iter().filter_map(|entry| match entry.kind {
        Kind::Refund(id) => Some(id),
        _ => None,
    });
    for id in of_rows.chain(of_ledger).collect::<BTreeSet<_>>() {
        let found = lines(Kind::Refund(id));
        let provider =
            found.keys().find_map(|(account, _)| account.strip_prefix(ledger::CASH)).unwrap_or("(no provider)");
        let refund = records.refunds.iter().find(|refund| refund.refund_id == id);
        let expected = refund.and_then(|refund| ledger::refunded(refund, provider).ok());
        let expected = expected.as_ref().map(lines_of).unwrap_or_default();
        compare_lines(Kind::Refund(id), &found, &expected, wrong);
    }
    for refund in &records.refunds {
        let is_of = captured.is_some_and(|payment| {
            payment.payment_id == refund.payment_id && payment.amount.currency == refund.amount.currency
        });
        if !is_of {
            wrong.push(format!("the refund {} is of no payment that was captured for it", refund.refund_id));
        }
    }
    if let Some(payment) = captured.filter(|payment| refund::total(&records.refunds) > payment.amount.amount) {
        let total = Money::new(refund::total(&records.refunds), payment.amount.currency);
        wrong.push(format!("{total} is refunded of {} that was captured", payment.amount));
    }
}

fn lines_of(movement: &Movement) -> Lines {
    movement.postings.iter().map(|p| ((p.account.clone(), movement.currency), p.amount)).collect()
}

fn compare_lines(kind: Kind, found: &Lines, expected: &Lines, wrong: &mut Vec<String>) {
    let mut sums: BTreeMap<Currency, i64> = BTreeMap::new();
    for ((_, currency), amount) in found {
        *sums.entry(*currency).or_default() += amount;
    }
    let kind = kind.as_str();
    for (currency, sum) in sums.into_iter().filter(|(_, sum)| *sum != 0) {
        let sum = Money::new(sum, currency);
        wrong.push(format!("its ledger entries of kind {kind} add up to {sum} and not to 0"));
    }
    for line in found.keys().chain(expected.keys().filter(|line| !found.contains_key(*line))) {
        let (has, must) = (found.get(line), expected.get(line));
        if has != must {
            let (account, currency) = line;
            let money = |amount: Option<&i64>| {
                amount.map_or("nothing".to_owned(), |amount| Money::new(*amount, *currency).to_string())
            };
            wrong.push(format!("the ledger ({kind}) has {} on {account}, and must have {}", money(has), money(must)));
        }
    }
}
