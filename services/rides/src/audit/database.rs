//! The tables' side: a ride's row, its kept events, its entries in the ledger, its payment; pure. Rows in, findings out.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use streams::Event;

use super::prints::{Fingerprints, digest};
use super::{Finding, Findings};
use crate::event_log::KeptEvent;
use crate::hash_chain;
use crate::ledger::{self, Entry, Kind};
use crate::payment::{Debt, Payment, PaymentStatus};
use crate::replay;
use crate::ride::{Bill, Ride};
use streams::RideId;

/// All that the tables have about one ride.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// The ride.
    pub ride_id: RideId,
    /// Its row.
    pub row: Option<Ride>,
    /// Its events, by version.
    pub events: Vec<KeptEvent>,
    /// Its entries in the ledger.
    pub entries: Vec<Entry>,
    /// Its payments; a sound one has at most one.
    pub payments: Vec<Payment>,
    /// What is owed after a refused one.
    pub debts: Vec<Debt>,
}

/// The state of the check.
#[derive(Debug)]
pub struct Books {
    horizon: DateTime<Utc>,
    /// Events that the stream must have.
    pub prints: Fingerprints,
    /// What was found.
    pub findings: Findings,
    /// Rides seen.
    pub rides: u64,
    /// Of them, those that have not ended.
    pub live: u64,
    /// Events seen.
    pub events: u64,
    /// Ledger entries seen.
    pub entries: u64,
    /// The sum of all entries, cents.
    pub sum: i128,
}

impl Books {
    /// For tables of which everything from `horizon` on must be in the stream.
    pub fn new(horizon: DateTime<Utc>) -> Self {
        Self {
            horizon,
            prints: Fingerprints::default(),
            findings: Findings::default(),
            rides: 0,
            live: 0,
            events: 0,
            entries: 0,
            sum: 0,
        }
    }

    /// Takes the next ride.
    pub fn account(&mut self, account: &Account) {
        self.rides += 1;
        self.events += account.events.len() as u64;
        self.entries += account.entries.len() as u64;
        self.sum += account.entries.iter().map(|e| i128::from(e.amount.amount)).sum::<i128>();
        let told = self.events_of(account);
        let id = account.ride_id;
        match (&account.row, &told) {
            (Some(row), Some((told, _))) => {
                self.live += u64::from(!row.status.is_final());
                for what in differences(row, told) {
                    self.findings.push(Finding::of_event(id, told.version, None, what));
                }
            }
            (Some(_), None) => self.findings.push(Finding::of_ride(id, "it has a row and no event")),
            (None, Some(_)) => self.findings.push(Finding::of_ride(id, "it has events and no row")),
            (None, None) => {
                self.findings.push(Finding::of_ride(id, "it has neither row nor event, but entries in the ledger"))
            }
        }
        if let Some((ride, bill)) = told {
            for what in money(&ride, bill.as_ref(), account) {
                self.findings.push(Finding::of_event(id, ride.version, None, what));
            }
        }
    }

    /// Checks the kept events and returns the ride that they tell, with what is owed for it.
    fn events_of(&mut self, account: &Account) -> Option<(Ride, Option<Bill>)> {
        let mut told: Option<(Ride, Option<Bill>)> = None;
        for kept in &account.events {
            if kept.occurred_at >= self.horizon {
                self.prints.add(kept.ride_id, digest(&kept.subject, &kept.message_id, kept.body.as_bytes()));
            }
            let mut wrong = |what: String| {
                let what = format!("in the database, {what}");
                self.findings.push(Finding::of_event(kept.ride_id, kept.version, None, what));
            };
            let (event, hash) = match hash_chain::read_body(&kept.subject, kept.body.as_bytes()) {
                Ok(read) => read,
                Err(broken) => {
                    wrong(broken.what());
                    continue;
                }
            };
            if let Err(broken) = hash_chain::matches(&event, hash) {
                wrong(broken.what());
            }
            let before = told.as_ref().map(|(ride, _)| ride);
            if let Err(broken) = replay::check(before, &event) {
                wrong(broken.what());
            }
            let id = Event::Ride(Box::new(event.clone())).message_id(event.occurred_at);
            for (column, same) in [
                ("ride_id", kept.ride_id == event.ride_id),
                ("version", kept.version == event.version),
                ("hash", kept.hash == event.hash),
                ("occurred_at", kept.occurred_at == event.occurred_at),
                ("message_id", kept.message_id == id),
            ] {
                if !same {
                    wrong(format!("the column {column} is not what the body says"));
                }
            }
            told = Some(replay::after(before, &event));
        }
        told
    }
}

/// What in the row of a ride is not as its events tell it.
fn differences(row: &Ride, told: &Ride) -> Vec<String> {
    if row == told {
        return Vec::new();
    }
    let differs = |column: &str, row: &dyn std::fmt::Debug, told: &dyn std::fmt::Debug| {
        let (row, told) = (format!("{row:?}"), format!("{told:?}"));
        (row != told).then(|| format!("the ride's row has {column} {row}, its events tell {told}"))
    };
    let found = [
        differs("match_id", &row.match_id.0, &told.match_id.0),
        differs("driver_id", &row.driver_id.0, &told.driver_id.0),
        differs("passenger_id", &row.passenger_id.0, &told.passenger_id.0),
        differs("version", &row.version, &told.version),
        differs("status", &row.status, &told.status),
        differs("pickup", &row.pickup, &told.pickup),
        differs("dropoff", &row.dropoff, &told.dropoff),
        differs("vehicle_type", &row.vehicle_type, &told.vehicle_type),
        differs("created_at", &row.created_at, &told.created_at),
        differs("updated_at", &row.updated_at, &told.updated_at),
        differs("started_at", &row.started_at, &told.started_at),
        differs("arrived_at", &row.arrived_at, &told.arrived_at),
        differs("last_hash", &row.last_hash, &told.last_hash),
        differs("a receipt", &row.receipt, &told.receipt),
        differs("a cancellation", &row.cancelled, &told.cancelled),
    ];
    found.into_iter().flatten().collect()
}

type Lines = BTreeMap<String, i64>;

/// What in the ledger and the payment of a ride is not as it must be, after a last event that bills `bill`.
fn money(ride: &Ride, bill: Option<&Bill>, account: &Account) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines = |kind: Kind| -> Lines {
        let mut lines = Lines::new();
        for entry in account.entries.iter().filter(|e| e.kind == kind) {
            *lines.entry(entry.account.clone()).or_default() += entry.amount.amount;
        }
        lines
    };
    let owed = bill.and_then(|bill| ledger::owed(ride, bill).ok());
    for kind in [Kind::Fare, Kind::Cancellation] {
        let wanted = owed.as_ref().filter(|due| due.kind == kind);
        let wanted: Lines =
            wanted.iter().flat_map(|due| &due.postings).map(|p| (p.account.clone(), p.amount)).collect();
        compare(kind, &lines(kind), &wanted, &mut wrong);
    }
    let payment = match (bill, &account.payments[..]) {
        (None, []) => None,
        (None, _) => {
            wrong.push("it has a payment, and nothing was billed".to_owned());
            None
        }
        (Some(bill), [payment]) => {
            let due = Payment::due(ride, bill.total);
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
    let taken = payment.filter(|p| p.status == PaymentStatus::Captured);
    let provider = captured.keys().find_map(|account| account.strip_prefix(ledger::CASH)).unwrap_or("(no provider)");
    let wanted = taken.and_then(|payment| ledger::captured(payment, provider).ok());
    let wanted: Lines = wanted.iter().flat_map(|m| &m.postings).map(|p| (p.account.clone(), p.amount)).collect();
    compare(Kind::Capture, &captured, &wanted, &mut wrong);
    let refused = payment.filter(|p| p.status == PaymentStatus::Refused);
    let debts: Vec<_> = account.debts.iter().map(|d| (d.payment_id, d.amount)).collect();
    if debts != refused.iter().map(|p| (p.payment_id, p.amount)).collect::<Vec<_>>() {
        wrong.push(format!("its debts are {debts:?}, and refused was {:?}", refused.map(|p| (p.payment_id, p.amount))));
    }
    wrong
}

fn compare(kind: Kind, found: &Lines, wanted: &Lines, wrong: &mut Vec<String>) {
    let sum: i64 = found.values().sum();
    if sum != 0 {
        wrong.push(format!("its ledger entries of kind {} add up to {sum} cents and not to 0", kind.as_str()));
    }
    for account in found.keys().chain(wanted.keys().filter(|a| !found.contains_key(*a))) {
        let (has, must) = (found.get(account), wanted.get(account));
        if has != must {
            let cents = |amount: Option<&i64>| amount.map_or("nothing".to_owned(), |a| format!("{a} cents"));
            wrong.push(format!(
                "the ledger ({}) has {} on {account}, and must have {}",
                kind.as_str(),
                cents(has),
                cents(must)
            ));
        }
    }
}
