//! Refunds that operators make: a part of what was captured for a ride; pure.
//!
//! Cash pays it and the platform's revenue bears it: the driver's payout stays. A refund has the id of its act, so that a repeat is the
//! same refund.

pub(crate) mod rows;

use chrono::{DateTime, Utc};
use streams::event::OperatorAct;
use streams::{ActId, Money, PaymentId, RideId};

use crate::payment::{Payment, PaymentStatus};

/// A refund.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    /// That of the act.
    pub refund_id: ActId,
    pub ride_id: RideId,
    pub payment_id: PaymentId,
    /// More than 0.
    pub amount: Money,
    /// Why, in the operator's words; `None` once the account of a party has ended.
    pub reason: Option<String>,
    /// The operator.
    pub by: String,
    pub at: DateTime<Utc>,
}

impl Refund {
    /// The refund that an act tells of; `None` if it is another act.
    pub(crate) fn of_act(act: &OperatorAct) -> Option<Self> {
        Some(Self {
            refund_id: act.act_id,
            ride_id: act.ride_id?,
            payment_id: act.payment_id?,
            amount: act.amount?,
            reason: act.reason.clone(),
            by: act.by.clone(),
            at: act.acted_at,
        })
    }
}

/// Why money is not refunded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("nothing was captured for this ride")]
    NotCaptured,
    #[error("it was captured in {0}: refund in the same currency")]
    OtherCurrency(streams::Currency),
    #[error("at most {0} can be refunded: what was captured, less what was refunded before")]
    TooLarge(Money),
}

/// Whether `amount` can be refunded of `payment`, of which `before` is refunded already.
///
/// # Errors
/// [`Refusal`].
pub(crate) fn check(payment: Option<&Payment>, before: &[Refund], amount: Money) -> Result<PaymentId, Refusal> {
    let captured = payment.filter(|payment| payment.status == PaymentStatus::Captured).ok_or(Refusal::NotCaptured)?;
    let currency = captured.amount.currency;
    if amount.currency != currency {
        return Err(Refusal::OtherCurrency(currency));
    }
    let left = captured.amount.amount - total(before);
    if amount.amount > left {
        return Err(Refusal::TooLarge(Money::new(left.max(0), currency)));
    }
    Ok(captured.payment_id)
}

/// Of refunds of one payment, minor units.
pub(crate) fn total(refunds: &[Refund]) -> i64 {
    refunds.iter().map(|refund| refund.amount.amount).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ride::Ride;
    use crate::ride::tests::{accepted, at};
    use uuid::Uuid;

    #[test]
    fn no_more_is_refunded_than_was_captured() {
        let ride = Ride::create(&accepted(), RideId(Uuid::from_u128(9)), None, at(0)).ride;
        let pending = Payment::due(&ride, Money::usd(1_000));
        let captured = Payment { status: PaymentStatus::Captured, ..pending.clone() };
        let refused = Payment { status: PaymentStatus::Refused, ..pending.clone() };
        let refund = |amount| Refund {
            refund_id: ActId(Uuid::from_u128(1)),
            ride_id: ride.ride_id,
            payment_id: captured.payment_id,
            amount: Money::usd(amount),
            reason: None,
            by: "ann".to_owned(),
            at: at(1),
        };
        for payment in [None, Some(&pending), Some(&refused)] {
            assert_eq!(check(payment, &[], Money::usd(1)), Err(Refusal::NotCaptured));
        }
        let before = [refund(300), refund(200)];
        assert_eq!(check(Some(&captured), &[], Money::usd(1_000)), Ok(captured.payment_id));
        assert_eq!(check(Some(&captured), &[], Money::usd(1_001)), Err(Refusal::TooLarge(Money::usd(1_000))));
        assert_eq!(check(Some(&captured), &before, Money::usd(500)), Ok(captured.payment_id));
        assert_eq!(check(Some(&captured), &before, Money::usd(501)), Err(Refusal::TooLarge(Money::usd(500))));
        let yen = Money::new(1, "JPY".parse().unwrap());
        assert_eq!(check(Some(&captured), &[], yen), Err(Refusal::OtherCurrency(streams::Currency::USD)));
    }
}
