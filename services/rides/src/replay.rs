//! A ride replayed from its events: the row that they lead to, and the bill; pure.
//!
//! This is the inverse of `ride::decide`, which turns decisions into events. Every column of a ride's row, of its ledger entries
//! and of its payment is computed from the events alone. Nothing here reads a store or a stream.

use streams::Money;
use streams::RideStatus;
use streams::event::RideEvent;

use crate::hash_chain::{self, ChainError, Link};
use crate::ride::{Bill, BillReason, Cancellation, Receipt, Ride};

impl<'a> From<&'a Ride> for Link<'a> {
    fn from(ride: &'a Ride) -> Self {
        Self { ride_id: ride.ride_id, version: ride.version, status: ride.status, hash: &ride.last_hash }
    }
}

/// Whether `event` may follow the ride `before` (`None`: may be a ride's first event): link, order, the fields that all events of
/// a ride share, times in order, and amounts that add up. [`hash_chain::verify_body`] checks its own hash.
///
/// # Errors
/// The first [`ChainError`].
pub(crate) fn validate(before: Option<&Ride>, event: &RideEvent) -> Result<(), ChainError> {
    hash_chain::check_link(before.map(Link::from), event)?;
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
                return Err(ChainError::FieldChanged { ride_id, version, field });
            }
        }
        if event.occurred_at < b.updated_at {
            return Err(ChainError::TimeReversed { ride_id, version });
        }
    }
    check_sums(event).map_err(|reason| ChainError::WrongSum { ride_id, version, reason })
}

fn check_sums(event: &RideEvent) -> Result<(), String> {
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
            if let Some(fee) = event.fee.filter(|fee| fee.amount != fare.total.amount) {
                return Err(format!("the fee is {} and not the fare's total, {}", fee.amount, fare.total.amount));
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

/// The ride after `event`, and the bill if the event causes one. It believes the event in everything: [`validate`] reports what is
/// wrong with it, and a wrong field is then reported once and not again for each later event.
pub(crate) fn apply(before: Option<&Ride>, event: &RideEvent) -> (Ride, Option<Bill>) {
    let at = event.occurred_at;
    let mut ride = Ride::from_event(event);
    if let Some(before) = before {
        ride.created_at = before.created_at;
        ride.terms.clone_from(&before.terms);
        // A process of the version before, which runs beside this one, names no market.
        ride.market_id = ride.market_id.or_else(|| before.market_id.clone());
        (ride.waiting_at, ride.started_at, ride.arrived_at) = (before.waiting_at, before.started_at, before.arrived_at);
    }
    let zero = Money::new(0, ride.currency());
    let (platform_fee, driver_payout) = (event.platform_fee.unwrap_or(zero), event.driver_payout.unwrap_or(zero));
    let mut billed = None;
    match event.status {
        RideStatus::Pickup => {}
        RideStatus::Waiting => ride.waiting_at = Some(at),
        RideStatus::Started => ride.started_at = Some(at),
        RideStatus::Arrived => ride.arrived_at = Some(at),
        RideStatus::Completed => {
            if let (Some(distance_m), Some(duration_s), Some(fare)) = (event.distance_m, event.duration_s, &event.fare)
            {
                billed = Some((BillReason::Fare, fare.total));
                ride.receipt =
                    Some(Receipt { distance_m, duration_s, fare: fare.clone(), platform_fee, driver_payout });
            }
        }
        RideStatus::Cancelled => {
            if let (Some(by), Some(reason), Some(fee)) = (event.by, event.reason.clone(), event.fee) {
                billed = Some((BillReason::Cancellation, fee));
                ride.cancellation = Some(Cancellation {
                    by,
                    reason,
                    code: event.reason_code,
                    note: event.note.clone(),
                    fee,
                    fare: event.fare.clone(),
                    distance_m: event.distance_m,
                    duration_s: event.duration_s,
                    platform_fee,
                    driver_payout,
                    continues: event.request_id.filter(|_| event.search_continues == Some(true)),
                });
            }
        }
    }
    let billed = billed.filter(|(_, total)| total.amount > 0);
    (ride, billed.map(|(reason, total)| Bill { reason, total, platform_fee, driver_payout }))
}

#[cfg(test)]
mod tests {
    use pricing::Tariffs;
    use streams::driven_distance::DrivenDistance;
    use streams::event::Party;

    use super::*;
    use crate::ride::tests::{accepted, at, whole_ride};
    use crate::ride::{CommandInput, Distance, DrivenSoFar, Outcome, PinTries, decide};
    use streams::RideId;

    #[test]
    fn replaying_the_events_of_a_ride_gives_its_row_and_its_bill() {
        let start = CommandInput::Start { pin: "1", right: "1", tries: PinTries::default() };
        let search = Some(accepted().request_id);
        let cancel = CommandInput::Cancel { reason: "rain", note: None, driven: None, search };
        let driven = |distance_m, covered| CommandInput::Cancel {
            reason: "unsafe",
            note: Some("the brakes"),
            driven: Some(DrivenSoFar {
                until: at(360),
                measured: Some(DrivenDistance { distance_m, covered }),
                max_speed_mps: 70.0,
            }),
            search,
        };
        let complete = |distance| (Party::System, CommandInput::Complete(distance), 2_000);
        let (begin, arrive) = ((Party::Driver, start, 60), (Party::Driver, CommandInput::Arrive, 960));
        let wait = (Party::Driver, CommandInput::Wait { driver_at: Some(accepted().pickup) }, 40);
        let later = (Party::Driver, start, 400);
        let no_show = CommandInput::Cancel { reason: "no_show", note: None, driven: None, search };
        let ways: [&[(Party, CommandInput<'_>, i64)]; 12] = [
            &[wait, later, (Party::Driver, CommandInput::Arrive, 960), complete(Distance::Measured(9_876.5))],
            &[wait, later, (Party::Passenger, cancel, 1_000)],
            &[wait, (Party::Driver, no_show, 340)],
            &[begin, arrive, complete(Distance::Measured(1_234.567))],
            &[begin, arrive, complete(Distance::Estimated)],
            &[begin, (Party::Passenger, cancel, 70)],
            &[begin, (Party::Passenger, driven(3_456.78, 1.0), 362)],
            &[begin, (Party::Driver, driven(3_456.78, 0.2), 362)],
            &[begin, (Party::Driver, driven(10.0, 1.0), 362)],
            &[(Party::Passenger, cancel, 1_000)],
            &[(Party::Driver, cancel, 10)],
            &[begin, (Party::Driver, CommandInput::Arrive, -500)],
        ];
        for way in ways {
            let mut decided = Ride::create(&accepted(), RideId(uuid::Uuid::from_u128(9)), None, at(0));
            let mut replayed = apply(None, &decided.event);
            assert_eq!((validate(None, &decided.event), &replayed.0), (Ok(()), &decided.ride));
            for (by, input, now) in way {
                let Ok(Outcome::Changed(next)) = decide(&decided.ride, *by, input, &Tariffs::default(), at(*now))
                else {
                    panic!("{input:?}")
                };
                assert_eq!(validate(Some(&replayed.0), &next.event), Ok(()), "{input:?}");
                replayed = apply(Some(&replayed.0), &next.event);
                assert_eq!((&replayed.0, &replayed.1), (&next.ride, &next.bill), "{input:?}");
                decided = *next;
            }
        }
    }

    #[test]
    fn an_event_that_does_not_fit_is_refused_with_the_reason() {
        let events = whole_ride();
        let before = events[..3].iter().fold(None, |ride: Option<Ride>, event| Some(apply(ride.as_ref(), event).0));
        let wrong = |change: fn(&mut RideEvent)| {
            let mut event = events[3].clone();
            change(&mut event);
            validate(before.as_ref(), &event).unwrap_err().to_string()
        };
        for (change, reason) in [
            ((|e| e.driver_id = e.passenger_id) as fn(&mut RideEvent), "driver_id is not that"),
            (|e| e.pickup.lat += 1e-9, "pickup is not that"),
            (|e| e.occurred_at -= chrono::Duration::days(1), "occurred_at is before"),
            (|e| e.fare.as_mut().expect("a fare").lines[0].amount.amount += 1, "the lines of the fare"),
            (|e| e.driver_payout = Some(Money::usd(1)), "do not add up"),
            (|e| e.platform_fee = None, "are missing"),
            (|e| e.version = 5, "version 5 stands where version 4 belongs"),
        ] {
            let text = wrong(change);
            assert!(text.contains(reason), "{reason}: {text}");
        }
    }
}
