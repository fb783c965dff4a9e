//! The lifecycle, over its whole matrix.

use super::lifecycle::may_follow;
use super::*;

pub(crate) const PIN: &str = "0427";

pub(crate) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + seconds, 123_456_000).unwrap()
}

pub(crate) fn accepted() -> MatchAccepted {
    let id = |n: u128| uuid::Uuid::from_u128(n);
    MatchAccepted {
        match_id: MatchId(id(1)),
        request_id: streams::event::ids::RequestId(id(2)),
        driver_id: UserId(id(3)),
        passenger_id: UserId(id(4)),
        pickup: Position { lat: 40.7128, lng: -74.006 },
        dropoff: Position { lat: 40.758, lng: -73.9855 },
        vehicle_type: VehicleType::Car,
        accepted_at: at(-1),
    }
}

fn order(command: Command) -> Order<'static> {
    match command {
        Command::Start => Order::Start { pin: PIN, right: PIN, tries: PinTries::default() },
        Command::Arrive => Order::Arrive,
        Command::Cancel => Order::Cancel { reason: "too late" },
        Command::Complete => Order::Complete(Distance::Measured(5_000.0)),
    }
}

fn changed(ride: &Ride, by: Party, order: &Order<'_>, now: DateTime<Utc>) -> Change {
    match decide(ride, by, order, &Tariffs::default(), now) {
        Ok(Outcome::Changed(change)) => *change,
        other => panic!("{:?} {order:?}: {other:?}", ride.status),
    }
}

fn created() -> Change {
    Ride::create(&accepted(), RideId(uuid::Uuid::from_u128(9)), at(0))
}

/// A ride that has got as far as `status`; cancelled by its passenger.
fn ride_in(status: RideStatus) -> Ride {
    let pickup = created().ride;
    let started = || changed(&pickup, Party::Driver, &order(Command::Start), at(60)).ride;
    let arrived = || changed(&started(), Party::Driver, &order(Command::Arrive), at(960)).ride;
    match status {
        RideStatus::Pickup => pickup,
        RideStatus::Started => started(),
        RideStatus::Arrived => arrived(),
        RideStatus::Completed => changed(&arrived(), Party::System, &order(Command::Complete), at(961)).ride,
        RideStatus::Cancelled => changed(&pickup, Party::Passenger, &order(Command::Cancel), at(10)).ride,
    }
}

/// The four events of a ride from pickup to completion.
pub(crate) fn whole_ride() -> Vec<RideEvent> {
    let mut change = created();
    let mut events = vec![change.event.clone()];
    for (by, command, now) in [
        (Party::Driver, Command::Start, at(60)),
        (Party::Driver, Command::Arrive, at(960)),
        (Party::System, Command::Complete, at(961)),
    ] {
        change = changed(&change.ride, by, &order(command), now);
        events.push(change.event.clone());
    }
    events
}

#[test]
fn the_whole_matrix() {
    use Command::*;
    let wanted = |status, command| match (status, command) {
        (RideStatus::Pickup, Start) => "-> started",
        (RideStatus::Pickup, Arrive) => "ride_not_started",
        (RideStatus::Pickup, Cancel) => "-> cancelled",
        (RideStatus::Pickup, Complete) => "ride_not_arrived",
        (RideStatus::Started, Start) => "again",
        (RideStatus::Started, Arrive) => "-> arrived",
        (RideStatus::Started, Cancel) => "-> cancelled",
        (RideStatus::Started, Complete) => "ride_not_arrived",
        (RideStatus::Arrived, Start) => "again",
        (RideStatus::Arrived, Arrive) => "again",
        (RideStatus::Arrived, Cancel) => "ride_arrived",
        (RideStatus::Arrived, Complete) => "-> completed",
        (RideStatus::Completed, Start) => "again",
        (RideStatus::Completed, Arrive) => "again",
        (RideStatus::Completed, Cancel) => "ride_ended",
        (RideStatus::Completed, Complete) => "again",
        (RideStatus::Cancelled, Start) => "ride_ended",
        (RideStatus::Cancelled, Arrive) => "ride_ended",
        (RideStatus::Cancelled, Cancel) => "again",
        (RideStatus::Cancelled, Complete) => "ride_ended",
    };
    for status in RideStatus::ALL {
        for command in Command::ALL {
            for by in [Party::Driver, Party::Passenger, Party::System] {
                let ride = ride_in(status);
                let found = match decide(&ride, by, &order(command), &Tariffs::default(), at(2_000)) {
                    Ok(Outcome::Changed(change)) => {
                        assert_eq!(change.ride.version, ride.version + 1);
                        assert_eq!(change.event.version, change.ride.version);
                        assert_eq!(change.event.previous_hash, ride.last_hash);
                        assert_eq!(change.event.hash, change.ride.last_hash);
                        assert_eq!(hash_chain::verify(&change.event), Ok(()));
                        assert!(may_follow(Some(status), change.ride.status));
                        format!("-> {}", change.ride.status.as_str())
                    }
                    Ok(Outcome::Again) => "again".to_owned(),
                    Ok(Outcome::WrongPin(_)) => "wrong pin".to_owned(),
                    Err(refusal) => refusal.code().to_owned(),
                };
                let may = match command {
                    Start | Arrive => by == Party::Driver,
                    Cancel => true,
                    Complete => by == Party::System,
                };
                // Only who cancelled may repeat it.
                let late = status == RideStatus::Cancelled && command == Cancel && by != Party::Passenger;
                let wanted = match (may, late) {
                    (false, _) => "forbidden",
                    (true, true) => "ride_ended",
                    (true, false) => wanted(status, command),
                };
                assert_eq!(found, wanted, "{status:?} {command:?} {by:?}");
            }
        }
    }
}

#[test]
fn only_the_contracts_orders_are_legal() {
    use RideStatus::*;
    let legal = [
        (None, Pickup),
        (Some(Pickup), Started),
        (Some(Pickup), Cancelled),
        (Some(Started), Arrived),
        (Some(Started), Cancelled),
        (Some(Arrived), Completed),
    ];
    for from in std::iter::once(None).chain(RideStatus::ALL.map(Some)) {
        for to in RideStatus::ALL {
            assert_eq!(may_follow(from, to), legal.contains(&(from, to)), "{from:?} {to:?}");
        }
    }
}

#[test]
fn a_completed_ride_is_billed_by_what_was_driven() {
    let change = changed(&ride_in(RideStatus::Arrived), Party::System, &order(Command::Complete), at(961));
    let receipt = change.ride.receipt.clone().unwrap();
    assert_eq!((receipt.distance_m, receipt.duration_s), (5_000.0, 900.0));
    assert_eq!(receipt.fare.total, Money::usd(250 + 600 + 450));
    assert!(!receipt.fare.estimated);
    let bill = change.bill.unwrap();
    assert_eq!((bill.total, bill.cause), (receipt.fare.total, Cause::Fare));
    assert_eq!(bill.platform_fee.amount + bill.driver_payout.amount, bill.total.amount);
    assert_eq!(change.event.fare.as_ref(), Some(&receipt.fare));

    let by_estimate = Order::Complete(Distance::Estimated);
    let change = changed(&ride_in(RideStatus::Arrived), Party::System, &by_estimate, at(1_020));
    let receipt = change.ride.receipt.unwrap();
    assert!(receipt.fare.estimated);
    assert_eq!(receipt.duration_s, 900.0, "the time is the real one");
    assert!((receipt.distance_m - accepted().pickup.distance_m(&accepted().dropoff) * 1.3).abs() < 1e-6);
}

#[test]
fn many_short_hops_bill_nothing() {
    // The failure by this name: a fare of metres between neighbouring points, each rounded to 0. Here the distance is the
    // cumulative one, and no ride costs less than the minimum.
    let arrived = ride_in(RideStatus::Arrived);
    let hops: f64 = (0..5_000).map(|_| 1.0).sum();
    let total = |metres| {
        let order = Order::Complete(Distance::Measured(metres));
        changed(&arrived, Party::System, &order, at(961)).bill.unwrap().total.amount
    };
    assert_eq!(total(hops), 1_300);
    assert_eq!(total(0.0), 700, "base and time");
    let mut short = arrived.clone();
    short.arrived_at = short.started_at;
    let change = changed(&short, Party::System, &Order::Complete(Distance::Measured(0.0)), at(961));
    assert_eq!(change.bill.unwrap().total.amount, Tariffs::default().car.minimum);
}

#[test]
fn who_cancels_when_pays_what() {
    let tariff = Tariffs::default().car;
    use Party::*;
    for (by, status, seconds, cents) in [
        (Driver, RideStatus::Pickup, 1_000, 0),
        (Driver, RideStatus::Started, 1_000, 0),
        (System, RideStatus::Pickup, 1_000, 0),
        (Passenger, RideStatus::Pickup, 0, 0),
        (Passenger, RideStatus::Pickup, 120, 0),
        (Passenger, RideStatus::Pickup, 121, 300),
        (Passenger, RideStatus::Started, 10, 600),
        (Passenger, RideStatus::Started, 1_000, 600),
    ] {
        let fee = cancellation_fee(&tariff, by, status, Duration::seconds(seconds));
        assert_eq!(fee, Money::usd(cents), "{by:?} {status:?} {seconds}");
    }
    let free = changed(&ride_in(RideStatus::Pickup), Party::Passenger, &order(Command::Cancel), at(20));
    assert_eq!((free.event.fee, free.bill), (Some(Money::usd(0)), None));
    let late = changed(&ride_in(RideStatus::Pickup), Party::Passenger, &order(Command::Cancel), at(300));
    let bill = late.bill.unwrap();
    assert_eq!((bill.cause, bill.total), (Cause::Cancellation, Money::usd(300)));
    assert_eq!((late.event.by, late.event.reason.as_deref()), (Some(Party::Passenger), Some("too late")));
}

#[test]
fn a_reason_has_1_to_500_bytes() {
    let ride = ride_in(RideStatus::Pickup);
    let long = "é".repeat(251);
    for (reason, good) in [("", false), ("x", true), (&long[..500], true), (&long[..], false), ("a\0b", false)] {
        let found = decide(&ride, Party::Driver, &Order::Cancel { reason }, &Tariffs::default(), at(5));
        assert_eq!(found.is_ok(), good, "{}", reason.len());
        assert!(good || found == Err(Refusal::Reason));
    }
}

#[test]
fn five_wrong_pins_and_then_a_pause() {
    let ride = ride_in(RideStatus::Pickup);
    let start = |ride: &Ride, tries, pin, now| {
        decide(ride, Party::Driver, &Order::Start { pin, right: PIN, tries }, &Tariffs::default(), now)
    };
    let mut tries = PinTries::default();
    for n in 1..=PIN_TRIES {
        let Ok(Outcome::WrongPin(next)) = start(&ride, tries, "0000", at(10)) else { panic!("try {n}") };
        assert_eq!(next, PinTries { failures: n, failed_at: Some(at(10)) });
        tries = next;
    }
    // Not even the right one is looked at in the pause.
    assert_eq!(start(&ride, tries, PIN, at(11)), Err(Refusal::PinLocked(29)));
    let Ok(Outcome::WrongPin(next)) = start(&ride, tries, "", at(40)) else { panic!("after the pause") };
    assert_eq!(start(&ride, next, PIN, at(69)), Err(Refusal::PinLocked(1)));
    assert!(matches!(start(&ride, next, PIN, at(70)), Ok(Outcome::Changed(_))));
    // A repeat needs the right PIN too.
    let started = ride_in(RideStatus::Started);
    assert_eq!(start(&started, tries, PIN, at(70)), Ok(Outcome::Again));
    assert_eq!(start(&started, tries, "04271", at(70)), Err(Refusal::WrongPin));
}

#[test]
fn time_does_not_go_back_within_a_ride() {
    let ride = ride_in(RideStatus::Started);
    let change = changed(&ride, Party::Driver, &Order::Arrive, at(-500));
    assert_eq!(change.event.occurred_at, ride.updated_at);
    assert_eq!(change.ride.duration_s(), 0.0);
}

/// What a ride may do, said once more and more simply: the events so far, by name, and who ended it.
#[derive(Default)]
struct Model {
    events: Vec<&'static str>,
    cancelled_by: Option<Party>,
    wrong_pins: u32,
    wrong_pin_at: i64,
}

impl Model {
    /// The event that must come of it, or none, or why not.
    fn expect(&mut self, by: Party, order: &Order<'_>, second: i64) -> Result<Option<&'static str>, &'static str> {
        let last = self.events[self.events.len() - 1];
        let event = match order {
            Order::Start { .. } | Order::Arrive if by != Party::Driver => return Err("forbidden"),
            Order::Complete(_) if by != Party::System => return Err("forbidden"),
            Order::Cancel { .. } if last == "cancelled" && self.cancelled_by == Some(by) => return Ok(None),
            Order::Complete(_) if last == "completed" => return Ok(None),
            Order::Arrive if ["arrived", "completed"].contains(&last) => return Ok(None),
            Order::Start { pin, right, .. } if !["pickup", "cancelled"].contains(&last) => {
                return if pin == right { Ok(None) } else { Err("wrong_pin") };
            }
            _ if ["completed", "cancelled"].contains(&last) => return Err("ride_ended"),
            Order::Start { .. } if self.wrong_pins >= 5 && second < self.wrong_pin_at + 30 => return Err("pin_locked"),
            Order::Start { pin, right, .. } if pin != right => {
                (self.wrong_pins, self.wrong_pin_at) = (self.wrong_pins + 1, second);
                return Err("wrong_pin");
            }
            Order::Start { .. } => "started",
            Order::Arrive if last == "pickup" => return Err("ride_not_started"),
            Order::Arrive => "arrived",
            Order::Cancel { .. } if last == "arrived" => return Err("ride_arrived"),
            Order::Cancel { .. } => {
                self.cancelled_by = Some(by);
                "cancelled"
            }
            Order::Complete(_) if last != "arrived" => return Err("ride_not_arrived"),
            Order::Complete(_) => "completed",
        };
        self.events.push(event);
        Ok(Some(event))
    }
}

#[test]
fn ten_thousand_random_rides_go_as_a_simple_model_says() {
    let world = platform::World::seeded(at(0), 5);
    let mut ends = std::collections::BTreeMap::<&str, u32>::new();
    for case in 0..10_000 {
        let first = created();
        let (mut ride, mut second, mut tries) = (first.ride, 0, PinTries::default());
        let mut events = vec![first.event];
        let mut model = Model { events: vec!["pickup"], ..Model::default() };
        let mut bills = Vec::new();
        for _ in 0..14 {
            // Now and then the clock of another process, which is behind.
            second += i64::from(world.below(40)) - 5;
            let by = [Party::Driver, Party::Driver, Party::Passenger, Party::System][world.below(4) as usize];
            let pin = if world.below(3) == 0 { "9999" } else { PIN };
            let order = match world.below(9) {
                0..=2 => Order::Start { pin, right: PIN, tries },
                3..=4 => Order::Arrive,
                5 => Order::Cancel { reason: "no longer" },
                6..=7 => Order::Complete(Distance::Measured(f64::from(world.below(20_000)))),
                _ => Order::Complete(Distance::Estimated),
            };
            let expected = model.expect(by, &order, second);
            let found = match decide(&ride, by, &order, &Tariffs::default(), at(second)) {
                Ok(Outcome::Changed(change)) => {
                    ride = change.ride;
                    let status = ride.status.as_str();
                    events.push(change.event);
                    bills.extend(change.bill);
                    Ok(Some(status))
                }
                Ok(Outcome::Again) => Ok(None),
                Ok(Outcome::WrongPin(counted)) => {
                    tries = counted;
                    Err("wrong_pin")
                }
                Err(refusal) => Err(refusal.code()),
            };
            assert_eq!(found, expected, "case {case}: {by:?} {order:?} after {:?}", model.events);
        }
        let last = &events[events.len() - 1];
        for (n, pair) in events.windows(2).enumerate() {
            assert_eq!((pair[1].version as usize, &pair[1].previous_hash), (n + 2, &pair[0].hash), "case {case}");
            assert!(pair[0].occurred_at <= pair[1].occurred_at, "case {case}: {pair:?}");
            assert_eq!(hash_chain::verify(&pair[1]), Ok(()), "case {case}");
        }
        // Billed once, for what its last event says, if at all; and the parts are the whole.
        let due = last.fare.as_ref().map_or(last.fee.map_or(0, |fee| fee.amount), |fare| fare.total.amount);
        assert_eq!(bills.iter().map(|b| b.total.amount).sum::<i64>(), due, "case {case}: {last:?}");
        assert!(bills.len() <= 1 && bills.iter().all(|b| b.total.amount > 0), "case {case}: {bills:?}");
        for bill in &bills {
            assert_eq!(bill.total.amount, bill.platform_fee.amount + bill.driver_payout.amount, "case {case}");
        }
        *ends.entry(last.status.as_str()).or_default() += 1;
    }
    assert!(ends.len() == 5 && ends.values().all(|n| *n > 100), "{ends:?}");
}
