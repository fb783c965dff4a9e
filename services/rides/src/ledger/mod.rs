//! The ledger: double entry. Debit is positive, and the postings of one transaction add up to 0.
//!
//! Postings are made by pure functions and written with the rows that they tell about. Accounts are `passenger:<id>`
//! (what the passenger owes), `driver:<id>` (what the platform owes the driver, negative), `platform:revenue` (negative)
//! and `cash:<provider>`. Entries are only ever added.

pub(crate) mod rows;

use chrono::{DateTime, Utc};
use streams::{Currency, Money, PaymentId, RideId, UserId};
use uuid::Uuid;

use crate::hash_chain;
use crate::payment::Payment;
use crate::ride::{Bill, Cause, Ride};

/// Before the name of a provider: what it has taken.
pub const CASH: &str = "cash:";
/// Where the platform's part goes.
pub const REVENUE: &str = "platform:revenue";

/// The account of what a passenger owes.
pub fn passenger(id: UserId) -> String {
    format!("passenger:{id}")
}

/// The account of what the platform owes a driver.
pub fn driver(id: UserId) -> String {
    format!("driver:{id}")
}

/// Why money moves. A ride has at most one transaction of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A completed ride is owed.
    Fare,
    /// A late cancellation is owed.
    Cancellation,
    /// A provider took the money.
    Capture,
}

impl Kind {
    /// The name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fare => "fare",
            Self::Cancellation => "cancellation",
            Self::Capture => "capture",
        }
    }
}

/// One line of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posting {
    /// The account.
    pub account: String,
    /// Cents; debit positive.
    pub amount: i64,
}

/// What moves together; adds up to 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// Why.
    pub kind: Kind,
    /// The ride that it is about.
    pub ride_id: RideId,
    /// The payment that it is about: the ids of the entries follow from it.
    pub payment_id: PaymentId,
    /// The day of value: when the event occurred that it follows from.
    pub at: DateTime<Utc>,
    /// Two or more, none of 0, each account once.
    pub postings: Vec<Posting>,
}

/// The postings of a movement do not add up to 0: a fault in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the postings add up to {0} cents and not to 0")]
pub struct Unbalanced(pub i64);

impl Movement {
    fn new(
        kind: Kind,
        (ride_id, payment_id, at): (RideId, PaymentId, DateTime<Utc>),
        postings: Vec<(String, i64)>,
    ) -> Result<Self, Unbalanced> {
        let sum = postings.iter().map(|(_, amount)| amount).sum();
        if sum != 0 {
            return Err(Unbalanced(sum));
        }
        let postings = postings.into_iter().filter(|(_, amount)| *amount != 0);
        let postings = postings.map(|(account, amount)| Posting { account, amount }).collect();
        Ok(Self { kind, ride_id, payment_id, at, postings })
    }

    /// As it is kept. Whoever makes the entries of a movement again makes the same ones.
    pub fn entries(&self) -> Vec<Entry> {
        let seed = self.payment_id.to_string();
        let id = |purpose: &str| hash_chain::derived_id(self.at, &seed, purpose);
        let kind = self.kind.as_str();
        let transaction_id = id(kind);
        let entry = |posting: &Posting| Entry {
            entry_id: id(&format!("{kind}/{}", posting.account)),
            transaction_id,
            ride_id: self.ride_id,
            kind: self.kind,
            account: posting.account.clone(),
            amount: Money { amount: posting.amount, currency: Currency::Usd },
            at: self.at,
        };
        self.postings.iter().map(entry).collect()
    }
}

/// A bill falls due: the passenger owes it, the driver and the platform have earned it.
///
/// # Errors
/// [`Unbalanced`] if the bill's parts are not its total.
pub fn owed(ride: &Ride, bill: &Bill) -> Result<Movement, Unbalanced> {
    let kind = match bill.cause {
        Cause::Fare => Kind::Fare,
        Cause::Cancellation => Kind::Cancellation,
    };
    let postings = vec![
        (passenger(ride.passenger_id), bill.total.amount),
        (driver(ride.driver_id), -bill.driver_payout.amount),
        (REVENUE.to_owned(), -bill.platform_fee.amount),
    ];
    Movement::new(kind, (ride.ride_id, ride.payment_id(), ride.updated_at), postings)
}

/// A provider took the money: it is cash now, and no longer owed by the passenger.
///
/// # Errors
/// Never [`Unbalanced`] in truth.
pub fn captured(payment: &Payment, provider: &str) -> Result<Movement, Unbalanced> {
    let cents = payment.amount.amount;
    let postings = vec![(format!("{CASH}{provider}"), cents), (passenger(payment.passenger_id), -cents)];
    Movement::new(Kind::Capture, (payment.ride_id, payment.payment_id, payment.created_at), postings)
}

/// A posting as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The entry.
    pub entry_id: Uuid,
    /// The same for all entries of one movement.
    pub transaction_id: Uuid,
    /// The ride that it is about.
    pub ride_id: RideId,
    /// Why.
    pub kind: Kind,
    /// The account.
    pub account: String,
    /// Debit positive.
    pub amount: Money,
    /// The day of value.
    pub at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ride::tests::{accepted, at};
    use pricing::{self, Tariffs};

    fn ride() -> Ride {
        Ride::create(&accepted(), RideId(Uuid::from_u128(9)), at(0)).ride
    }

    #[test]
    fn every_movement_adds_up_to_0() {
        let tariff = Tariffs::default().car;
        for total in [1, 2, 3, 299, 600, 1_301, 999_999] {
            let (platform_fee, driver_payout) = pricing::split(&tariff, total);
            for cause in [Cause::Fare, Cause::Cancellation] {
                let bill = Bill { cause, total: Money::usd(total), platform_fee, driver_payout };
                let due = owed(&ride(), &bill).unwrap();
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
    fn the_same_movement_makes_the_same_entries_and_another_none_of_them() {
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
        let bill = Bill { cause: Cause::Fare, total, platform_fee, driver_payout };
        assert_eq!(owed(&ride(), &bill), Err(Unbalanced(-1)));
    }
}
