//! A ride told again by its events: the row that they make, and what is owed for it; pure.
//!
//! This is the way back from `ride.rs`, which makes events of decisions. Between the two every column of a ride's row, of its
//! ledger entries and of its payment follows from the events alone. Nothing here reads a store or a stream.

use streams::Money;
use streams::RideStatus;
use streams::event::RideEvent;

use crate::hash_chain::{self, Broken, Link};
use crate::ride::{Bill, Cancelled, Cause, Receipt, Ride};

impl<'a> From<&'a Ride> for Link<'a> {
    fn from(ride: &'a Ride) -> Self {
        Self { ride_id: ride.ride_id, version: ride.version, status: ride.status, hash: &ride.last_hash }
    }
}

/// Whether `event` may come after what made `before` (`None`: as a ride's first): link, order, what all events of a ride
/// have in common, and money that adds up. Its own hash is [`hash_chain::verify_body`]'s.
///
/// # Errors
/// The first thing that is [`Broken`].
pub(crate) fn check(before: Option<&Ride>, event: &RideEvent) -> Result<(), Broken> {
    hash_chain::fits(before.map(Link::from), event)?;
    let (ride_id, version) = (event.ride_id, event.version);
    if let Some(b) = before {
        for (field, same) in [
            ("match_id", b.match_id == event.match_id),
            ("driver_id", b.driver_id == event.driver_id),
            ("passenger_id", b.passenger_id == event.passenger_id),
            ("pickup", b.pickup == event.pickup),
            ("dropoff", b.dropoff == event.dropoff),
            ("vehicle_type", b.vehicle_type == event.vehicle_type),
        ] {
            if !same {
                return Err(Broken::Differs { ride_id, version, field });
            }
        }
        if event.occurred_at < b.updated_at {
            return Err(Broken::Backwards { ride_id, version });
        }
    }
    money(event).map_err(|what| Broken::Money { ride_id, version, what })
}

fn money(event: &RideEvent) -> Result<(), String> {
    let parts = match (event.platform_fee, event.driver_payout) {
        (Some(fee), Some(payout)) => Some((fee.amount, payout.amount)),
        _ => None,
    };
    let total = match (&event.fare, event.fee) {
        (Some(fare), _) => {
            let lines: i64 = fare.lines.iter().map(|line| line.amount.amount).sum();
            if lines != fare.total.amount {
                return Err(format!(
                    "the lines of the fare add up to {lines} and not to its total, {}",
                    fare.total.amount
                ));
            }
            fare.total.amount
        }
        (None, Some(fee)) => fee.amount,
        (None, None) => return Ok(()),
    };
    match parts {
        None if total == 0 => Ok(()),
        None => Err(format!("platform_fee and driver_payout are missing, although {total} is to be paid")),
        Some((fee, payout)) if fee + payout == total => Ok(()),
        Some((fee, payout)) => Err(format!("platform_fee {fee} and driver_payout {payout} do not add up to {total}")),
    }
}

/// The ride after `event`, and what is owed for it. What of `event` does not follow is [`check`]'s; here it is taken as it
/// is, so that one fault is told once.
pub(crate) fn after(before: Option<&Ride>, event: &RideEvent) -> (Ride, Option<Bill>) {
    let at = event.occurred_at;
    let mut ride = Ride {
        ride_id: event.ride_id,
        match_id: event.match_id,
        driver_id: event.driver_id,
        passenger_id: event.passenger_id,
        version: event.version,
        status: event.status,
        pickup: event.pickup,
        dropoff: event.dropoff,
        vehicle_type: event.vehicle_type,
        created_at: before.map_or(at, |b| b.created_at),
        updated_at: at,
        started_at: before.and_then(|b| b.started_at),
        arrived_at: before.and_then(|b| b.arrived_at),
        last_hash: event.hash.clone(),
        receipt: None,
        cancelled: None,
    };
    let zero = Money::usd(0);
    let (platform_fee, driver_payout) = (event.platform_fee.unwrap_or(zero), event.driver_payout.unwrap_or(zero));
    let mut owed = None;
    match event.status {
        RideStatus::Pickup => {}
        RideStatus::Started => ride.started_at = Some(at),
        RideStatus::Arrived => ride.arrived_at = Some(at),
        RideStatus::Completed => {
            if let (Some(distance_m), Some(duration_s), Some(fare)) = (event.distance_m, event.duration_s, &event.fare)
            {
                owed = Some((Cause::Fare, fare.total));
                ride.receipt =
                    Some(Receipt { distance_m, duration_s, fare: fare.clone(), platform_fee, driver_payout });
            }
        }
        RideStatus::Cancelled => {
            if let (Some(by), Some(reason), Some(fee)) = (event.by, event.reason.clone(), event.fee) {
                owed = Some((Cause::Cancellation, fee));
                ride.cancelled = Some(Cancelled { by, reason, fee, platform_fee, driver_payout });
            }
        }
    }
    let owed = owed.filter(|(_, total)| total.amount > 0);
    (ride, owed.map(|(cause, total)| Bill { cause, total, platform_fee, driver_payout }))
}

#[cfg(test)]
mod tests {
    use pricing::Tariffs;
    use streams::event::Party;

    use super::*;
    use crate::ride::tests::{accepted, at, whole_ride};
    use crate::ride::{Distance, Order, Outcome, PinTries, decide};
    use streams::RideId;

    #[test]
    fn the_events_of_every_way_through_a_ride_tell_its_row_and_its_bill() {
        let start = Order::Start { pin: "1", right: "1", tries: PinTries::default() };
        let cancel = Order::Cancel { reason: "rain" };
        let complete = |distance| (Party::System, Order::Complete(distance), 2_000);
        let (begin, arrive) = ((Party::Driver, start, 60), (Party::Driver, Order::Arrive, 960));
        let ways: [&[(Party, Order<'_>, i64)]; 6] = [
            &[begin, arrive, complete(Distance::Measured(1_234.567))],
            &[begin, arrive, complete(Distance::Estimated)],
            &[begin, (Party::Passenger, cancel, 70)],
            &[(Party::Passenger, cancel, 1_000)],
            &[(Party::Driver, cancel, 10)],
            &[begin, (Party::Driver, Order::Arrive, -500)],
        ];
        for way in ways {
            let mut made = Ride::create(&accepted(), RideId(uuid::Uuid::from_u128(9)), at(0));
            let mut told = after(None, &made.event);
            assert_eq!((check(None, &made.event), &told.0), (Ok(()), &made.ride));
            for (by, order, now) in way {
                let Ok(Outcome::Changed(next)) = decide(&made.ride, *by, order, &Tariffs::default(), at(*now)) else {
                    panic!("{order:?}")
                };
                assert_eq!(check(Some(&told.0), &next.event), Ok(()), "{order:?}");
                told = after(Some(&told.0), &next.event);
                assert_eq!((&told.0, &told.1), (&next.ride, &next.bill), "{order:?}");
                made = *next;
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let events = whole_ride();
        let before = events[..3].iter().fold(None, |ride: Option<Ride>, event| Some(after(ride.as_ref(), event).0));
        let wrong = |change: fn(&mut RideEvent)| {
            let mut event = events[3].clone();
            change(&mut event);
            check(before.as_ref(), &event).unwrap_err().to_string()
        };
        for (change, told) in [
            ((|e| e.driver_id = e.passenger_id) as fn(&mut RideEvent), "driver_id is not that"),
            (|e| e.pickup.lat += 1e-9, "pickup is not that"),
            (|e| e.occurred_at -= chrono::Duration::days(1), "occurred_at is before"),
            (|e| e.fare.as_mut().expect("a fare").lines[0].amount.amount += 1, "the lines of the fare"),
            (|e| e.driver_payout = Some(Money::usd(1)), "do not add up"),
            (|e| e.platform_fee = None, "are missing"),
            (|e| e.version = 5, "version 5 stands where version 4 belongs"),
        ] {
            let text = wrong(change);
            assert!(text.contains(told), "{told}: {text}");
        }
    }
}
