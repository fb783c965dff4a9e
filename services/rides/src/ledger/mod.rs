//! The ledger: double entry; pure. Debit is positive, and the postings of one movement add up to 0.
//!
//! A refund is cash that goes back; the platform bears it.
//!
//! Accounts are `passenger:<id>` (what the passenger owes), `driver:<id>` (what the platform owes the driver, negative),
//! `platform:revenue` (negative) and `cash:<provider>`. Entries are only ever added; `rows.rs` writes them, in the transaction of the
//! ride or the payment that they belong to.

pub mod rows;

use chrono::{DateTime, Utc};
use streams::{ActId, Currency, Money, PaymentId, RideId, UserId};
use uuid::Uuid;

use crate::hash_chain;
use crate::payment::Payment;
use crate::refund::Refund;
use crate::ride::{Bill, BillReason, Ride};

/// The prefix of a provider's account: the money that it has captured.
pub const CASH: &str = "cash:";
/// The account of the platform's part.
pub const REVENUE: &str = "platform:revenue";

/// The account of a passenger: what the passenger owes.
pub fn passenger(id: UserId) -> String {
    format!("passenger:{id}")
}

/// The account of a driver: what the platform owes the driver, negative.
pub fn driver(id: UserId) -> String {
    format!("driver:{id}")
}

/// Why money moves. A ride has at most one movement of each kind; each refund is a kind of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A completed ride is billed.
    Fare,
    /// A late cancellation is billed.
    Cancellation,
    /// A provider captured the money.
    Capture,
    /// An operator refunds a part of what was captured.
    Refund(ActId),
}

/// The beginning of a refund's name in the database.
const REFUND: &str = "refund:";

impl Kind {
    /// The name for people; that of every refund is the same.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fare => "fare",
            Self::Cancellation => "cancellation",
            Self::Capture => "capture",
            Self::Refund(_) => "refund",
        }
    }

    /// The name in the database.
    pub(crate) fn key(self) -> String {
        match self {
            Self::Refund(id) => format!("{REFUND}{id}"),
            other => other.as_str().to_owned(),
        }
    }

    /// The kind with this name in the database.
    pub(crate) fn of_key(key: &str) -> Option<Self> {
        match key.strip_prefix(REFUND) {
            Some(id) => id.parse().ok().map(Self::Refund),
            None => [Self::Fare, Self::Cancellation, Self::Capture].into_iter().find(|kind| kind.as_str() == key),
        }
    }
}

/// One line of a movement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posting {
    pub account: String,
    /// Cents; debit positive.
    pub amount: i64,
}

/// Postings that belong together; they add up to 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    pub kind: Kind,
    pub ride_id: RideId,
    /// The ids of the entries are computed from it.
    pub payment_id: PaymentId,
    /// The value date: when the event occurred that caused it.
    pub at: DateTime<Utc>,
    /// Of every posting: amounts of two currencies are never in one movement.
    pub currency: Currency,
    /// Two or more, none of 0, each account once.
    pub postings: Vec<Posting>,
}

/// The postings of a movement do not add up to 0: a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the postings add up to {0} minor units and not to 0")]
pub struct Unbalanced(pub i64);

impl Movement {
    fn new(
        kind: Kind,
        (ride_id, payment_id, at): (RideId, PaymentId, DateTime<Utc>),
        currency: Currency,
        postings: Vec<(String, i64)>,
    ) -> Result<Self, Unbalanced> {
        let sum = postings.iter().map(|(_, amount)| amount).sum();
        if sum != 0 {
            return Err(Unbalanced(sum));
        }
        let postings = postings.into_iter().filter(|(_, amount)| *amount != 0);
        let postings = postings.map(|(account, amount)| Posting { account, amount }).collect();
        Ok(Self { kind, ride_id, payment_id, at, currency, postings })
    }

    /// The rows of the movement. A rebuild computes the same rows, with the same ids.
    pub fn entries(&self) -> Vec<Entry> {
        let seed = self.payment_id.to_string();
        let id = |purpose: &str| hash_chain::derived_id(self.at, &seed, purpose);
        let kind = self.kind.key();
        let transaction_id = id(&kind);
        let entry = |posting: &Posting| Entry {
            entry_id: id(&format!("{kind}/{}", posting.account)),
            transaction_id,
            ride_id: self.ride_id,
            kind: self.kind,
            account: posting.account.clone(),
            amount: Money::new(posting.amount, self.currency),
            at: self.at,
        };
        self.postings.iter().map(entry).collect()
    }
}

/// A bill: the passenger owes its total, the driver and the platform have earned their parts.
///
/// # Errors
/// [`Unbalanced`] if the bill's parts are not its total.
pub fn billed(ride: &Ride, bill: &Bill) -> Result<Movement, Unbalanced> {
    let kind = match bill.reason {
        BillReason::Fare => Kind::Fare,
        BillReason::Cancellation => Kind::Cancellation,
    };
    let postings = vec![
        (passenger(ride.passenger_id), bill.total.amount),
        (driver(ride.driver_id), -bill.driver_payout.amount),
        (REVENUE.to_owned(), -bill.platform_fee.amount),
    ];
    Movement::new(kind, (ride.ride_id, ride.payment_id(), ride.updated_at), bill.total.currency, postings)
}

/// A provider captured the money: it is cash, and the passenger no longer owes it.
///
/// # Errors
/// None in practice: two postings of one amount are balanced.
pub fn captured(payment: &Payment, provider: &str) -> Result<Movement, Unbalanced> {
    let Money { amount, currency } = payment.amount;
    let postings = vec![(format!("{CASH}{provider}"), amount), (passenger(payment.passenger_id), -amount)];
    Movement::new(Kind::Capture, (payment.ride_id, payment.payment_id, payment.created_at), currency, postings)
}

/// A part of what a provider captured goes back: cash pays it, and the platform's revenue bears it.
///
/// # Errors
/// None in practice: two postings of one amount are balanced.
pub fn refunded(refund: &Refund, provider: &str) -> Result<Movement, Unbalanced> {
    let Money { amount, currency } = refund.amount;
    let postings = vec![(REVENUE.to_owned(), amount), (format!("{CASH}{provider}"), -amount)];
    Movement::new(Kind::Refund(refund.refund_id), (refund.ride_id, refund.payment_id, refund.at), currency, postings)
}

/// A row of `ledger_entries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub entry_id: Uuid,
    /// The same for all entries of one movement.
    pub transaction_id: Uuid,
    pub ride_id: RideId,
    pub kind: Kind,
    pub account: String,
    /// Debit positive.
    pub amount: Money,
    /// The value date.
    pub at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ride::tests::{accepted, at};
    use pricing::{self, Tariffs};

    fn ride() -> Ride {
        Ride::create(&accepted(), RideId(Uuid::from_u128(9)), None, at(0)).ride
    }

    #[test]
    fn the_postings_of_a_movement_add_up_to_0() {
        let tariff = Tariffs::default().car;
        for total in [1, 2, 3, 299, 600, 1_301, 999_999] {
            let (platform_fee, driver_payout) = pricing::split(&tariff, total);
            for reason in [BillReason::Fare, BillReason::Cancellation] {
                let bill = Bill { reason, total: Money::usd(total), platform_fee, driver_payout };
                let due = billed(&ride(), &bill).unwrap();
                assert_eq!(due.postings.iter().map(|p| p.amount).sum::<i64>(), 0);
                assert_eq!(due.postings[0].amount, total);
                assert!(due.postings.iter().all(|p| p.amount != 0), "{due:?}");
            }
            let paid = captured(&Payment::due(&ride(), Money::usd(total)), "ledger").unwrap();
            assert_eq!(paid.postings.iter().map(|p| p.amount).sum::<i64>(), 0);
            assert_eq!(paid.postings[1], Posting { account: passenger(ride().passenger_id), amount: -total });
        }
    }

    #[test]
    fn a_movement_always_has_the_same_entry_ids_and_no_other_movement_has_them() {
        let (first, mut second) = (Payment::due(&ride(), Money::usd(5)), Payment::due(&ride(), Money::usd(5)));
        let ids = |payment: &Payment| {
            let entries = captured(payment, "ledger").unwrap().entries();
            let mut ids: Vec<Uuid> = entries.iter().flat_map(|e| [e.entry_id, e.transaction_id]).collect();
            assert!(ids.iter().all(|id| id.get_version_num() == 7), "{ids:?}");
            ids.sort();
            ids.dedup();
            ids
        };
        assert_eq!((ids(&first).len(), ids(&first)), (3, ids(&second)));
        second.payment_id = PaymentId(Uuid::from_u128(1));
        assert!(ids(&second).iter().all(|id| !ids(&first).contains(id)));
    }

    #[test]
    fn a_bill_whose_parts_are_not_its_total_is_refused() {
        let (total, platform_fee, driver_payout) = (Money::usd(1_000), Money::usd(200), Money::usd(801));
        let bill = Bill { reason: BillReason::Fare, total, platform_fee, driver_payout };
        assert_eq!(billed(&ride(), &bill), Err(Unbalanced(-1)));
    }
}
