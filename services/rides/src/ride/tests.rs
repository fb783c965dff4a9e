//! The lifecycle, over its whole matrix.

use proptest::prelude::ProptestConfig;
use proptest::test_runner::{RngSeed, TestCaseError, TestRunner};
use proptest::{prop_assert, prop_assert_eq};

use streams::driven_distance::DrivenDistance;

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
        market_id: None,
        terms: None,
        accepted_at: at(-1),
    }
}

fn input(command: Command) -> CommandInput<'static> {
    match command {
        Command::Wait => CommandInput::Wait { driver_at: Some(accepted().pickup) },
        Command::Start => CommandInput::Start { pin: PIN, right: PIN, tries: PinTries::default() },
        Command::Arrive => CommandInput::Arrive,
        Command::Cancel => CommandInput::Cancel { reason: "too late", note: None, driven: None, search: None },
        Command::Complete => CommandInput::Complete(Distance::Measured(5_000.0)),
    }
}

/// The receipt of a cancelled ride: `name cents, …`.
fn lines_of(ride: &Ride) -> String {
    let lines = ride.fare().map_or(&[][..], |fare| &fare.lines);
    lines.iter().map(|line| format!("{} {}", line.name, line.amount.amount)).collect::<Vec<_>>().join(", ")
}

fn changed(ride: &Ride, by: Party, input: &CommandInput<'_>, now: DateTime<Utc>) -> Change {
    match decide(ride, by, input, &Tariffs::default(), now) {
        Ok(Outcome::Changed(change)) => *change,
        other => panic!("{:?} {input:?}: {other:?}", ride.status),
    }
}

fn created() -> Change {
    Ride::create(&accepted(), RideId(uuid::Uuid::from_u128(9)), None, at(0))
}

/// A ride that has got as far as `status`; cancelled by its passenger.
fn ride_in(status: RideStatus) -> Ride {
    let pickup = created().ride;
    let started = || changed(&pickup, Party::Driver, &input(Command::Start), at(60)).ride;
    let arrived = || changed(&started(), Party::Driver, &input(Command::Arrive), at(960)).ride;
    match status {
        RideStatus::Pickup => pickup,
        RideStatus::Waiting => changed(&pickup, Party::Driver, &input(Command::Wait), at(30)).ride,
        RideStatus::Started => started(),
        RideStatus::Arrived => arrived(),
        RideStatus::Completed => changed(&arrived(), Party::System, &input(Command::Complete), at(961)).ride,
        RideStatus::Cancelled => changed(&pickup, Party::Passenger, &input(Command::Cancel), at(10)).ride,
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
        change = changed(&change.ride, by, &input(command), now);
        events.push(change.event.clone());
    }
    events
}

#[test]
fn each_command_does_what_the_table_says_in_each_status() {
    use Command::*;
    let wanted = |status, command| match (status, command) {
        (RideStatus::Pickup, Wait) => "-> waiting",
        (RideStatus::Waiting, Wait) => "again",
        // It had not waited.
        (RideStatus::Started | RideStatus::Arrived | RideStatus::Completed, Wait) => "ride_started",
        (RideStatus::Cancelled, Wait) => "ride_ended",
        (RideStatus::Waiting, Start) => "-> started",
        (RideStatus::Waiting, Arrive) => "ride_not_started",
        (RideStatus::Waiting, Cancel) => "-> cancelled",
        (RideStatus::Waiting, Complete) => "ride_not_arrived",
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
                let found = match decide(&ride, by, &input(command), &Tariffs::default(), at(2_000)) {
                    Ok(Outcome::Changed(change)) => {
                        assert_eq!(change.ride.version, ride.version + 1);
                        assert_eq!(change.event.version, change.ride.version);
                        assert_eq!(change.event.previous_hash, ride.last_hash);
                        assert_eq!(change.event.hash, change.ride.last_hash);
                        assert_eq!(hash_chain::hash(&change.event), change.event.hash);
                        assert!(may_follow(Some(status), change.ride.status));
                        format!("-> {}", change.ride.status.as_str())
                    }
                    Ok(Outcome::AlreadyDone) => "again".to_owned(),
                    Ok(Outcome::WrongPin(_)) => "wrong pin".to_owned(),
                    Err(refusal) => refusal.code().to_owned(),
                };
                let may = match command {
                    Wait | Start | Arrive => by == Party::Driver,
                    Cancel => true,
                    Complete => by == Party::System,
                };
                // Only the party that cancelled may repeat the command.
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
        (Some(Pickup), Waiting),
        (Some(Waiting), Started),
        (Some(Waiting), Cancelled),
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
    let change = changed(&ride_in(RideStatus::Arrived), Party::System, &input(Command::Complete), at(961));
    let receipt = change.ride.receipt.clone().unwrap();
    assert_eq!((receipt.distance_m, receipt.duration_s), (5_000.0, 900.0));
    assert_eq!(receipt.fare.total, Money::usd(250 + 600 + 450));
    assert!(!receipt.fare.estimated);
    let bill = change.bill.unwrap();
    assert_eq!((bill.total, bill.reason), (receipt.fare.total, BillReason::Fare));
    assert_eq!(bill.platform_fee.amount + bill.driver_payout.amount, bill.total.amount);
    assert_eq!(change.event.fare.as_ref(), Some(&receipt.fare));

    let by_estimate = CommandInput::Complete(Distance::Estimated);
    let change = changed(&ride_in(RideStatus::Arrived), Party::System, &by_estimate, at(1_020));
    let receipt = change.ride.receipt.unwrap();
    assert!(receipt.fare.estimated);
    assert_eq!(receipt.duration_s, 900.0, "the time is the real one");
    assert!((receipt.distance_m - accepted().pickup.distance_m(&accepted().dropoff) * 1.3).abs() < 0.006);
    assert_eq!(receipt.distance_m, format!("{:.2}", receipt.distance_m).parse::<f64>().unwrap(), "no more decimals");
}

#[test]
fn a_distance_that_nobody_can_have_driven_is_billed_by_the_estimate() {
    let arrived = ride_in(RideStatus::Arrived);
    assert_eq!(arrived.duration_s(), 900.0);
    let estimate_m = pricing::estimate(&arrived.pickup, &arrived.dropoff).0;
    assert!(estimate_m < 10_000.0, "{estimate_m}");
    let bound = 70.0 * 910.0 + 1_000.0;
    let day = Ride { arrived_at: arrived.started_at.map(|at| at + Duration::hours(24)), ..arrived.clone() };
    let mut far = day.clone();
    far.dropoff.lat += 1.0;
    for (ride, metres, max_speed_mps, billed) in [
        (&arrived, 0.0, 70.0, true),
        // An honest detour, six times the estimate and more.
        (&arrived, 60_000.0, 70.0, true),
        (&arrived, bound, 70.0, true),
        (&arrived, bound + 1.0, 70.0, false),
        (&arrived, 987_654_321.0, 70.0, false),
        // The second bound does not depend on the speed.
        (&arrived, 99_999.0, 1e6, true),
        (&arrived, 100_001.0, 1e6, false),
        (&arrived, 987_654_321.0, f64::MAX, false),
        (&day, 100_001.0, 70.0, false),
        (&far, 1_000_000.0, 70.0, true),
        (&far, 2_000_000.0, 70.0, false),
    ] {
        let expected = if billed { Distance::Measured(metres) } else { Distance::Estimated };
        assert_eq!(
            plausible(ride, metres, ride.duration_s(), max_speed_mps),
            expected,
            "{metres} m at {max_speed_mps} m/s"
        );
    }
}

#[test]
fn a_track_that_shows_less_than_half_of_the_time_bills_the_estimate() {
    let arrived = ride_in(RideStatus::Arrived);
    for (covered, expected) in [
        (Some(0.0), Distance::Estimated),
        (Some(0.49), Distance::Estimated),
        (Some(0.5), Distance::Measured(3_000.0)),
        (Some(1.0), Distance::Measured(3_000.0)),
        // From a process that does not know it.
        (None, Distance::Measured(3_000.0)),
    ] {
        assert_eq!(billed_distance(&arrived, 3_000.0, covered, 70.0), expected, "{covered:?}");
    }
    assert_eq!(billed_distance(&arrived, 987_654_321.0, Some(1.0), 70.0), Distance::Estimated);
}

#[test]
fn many_short_hops_are_billed_in_full() {
    // Rounding the metres between neighbouring points, each to 0, would bill nothing. The distance here is the cumulative one, and
    // no ride costs less than the minimum.
    let arrived = ride_in(RideStatus::Arrived);
    let hops: f64 = (0..5_000).map(|_| 1.0).sum();
    let total = |metres| {
        let input = CommandInput::Complete(Distance::Measured(metres));
        changed(&arrived, Party::System, &input, at(961)).bill.unwrap().total.amount
    };
    assert_eq!(total(hops), 1_300);
    assert_eq!(total(0.0), 700, "base and time");
    let mut short = arrived.clone();
    short.arrived_at = short.started_at;
    let change = changed(&short, Party::System, &CommandInput::Complete(Distance::Measured(0.0)), at(961));
    assert_eq!(change.bill.unwrap().total.amount, Tariffs::default().car.minimum);
}

#[test]
fn a_cancellation_costs_what_its_party_status_and_time_say() {
    use Party::*;
    for (by, status, second, lines) in [
        (Driver, RideStatus::Pickup, 1_000, ""),
        (System, RideStatus::Pickup, 1_000, ""),
        (System, RideStatus::Started, 1_000, ""),
        (Passenger, RideStatus::Pickup, 0, ""),
        (Passenger, RideStatus::Pickup, 120, ""),
        (Passenger, RideStatus::Pickup, 121, "cancellation 300"),
    ] {
        let ride = changed(&ride_in(status), by, &input(Command::Cancel), at(second)).ride;
        assert_eq!(lines_of(&ride), lines, "{by:?} {status:?} {second}");
    }
    // Cancelled 300 s after the start: what was driven, as the positions show it.
    let (whole_m, in_time_m) = (pricing::estimate(&accepted().pickup, &accepted().dropoff).0, 7.0 * 300.0);
    assert!(whole_m > in_time_m);
    let measured = |distance_m, covered| Some(DrivenDistance { distance_m, covered });
    for (by, measured, lines, metres, estimated) in [
        (Passenger, measured(20_000.0, 1.0), "base 250, distance 2400, time 150", 20_000.0, false),
        (Driver, measured(20_000.0, 1.0), "base 250, distance 2400, time 150", 20_000.0, false),
        (Passenger, measured(500.0, 1.0), "base 250, distance 60, time 150, minimum 140", 500.0, false),
        (Driver, measured(500.0, 1.0), "base 250, distance 60, time 150", 500.0, false),
        // Still at the pickup.
        (Passenger, measured(150.0, 1.0), "base 250, distance 18, time 150, minimum 182", 150.0, false),
        (Driver, measured(150.0, 1.0), "", 150.0, false),
        // Positions that show too little prove what they show.
        (Passenger, measured(20_000.0, 0.4), "base 250, distance 2400, time 150", 20_000.0, true),
        (Passenger, measured(500.0, 0.4), "base 250, distance 252, time 150", in_time_m, true),
        // No positions, no answer of location, and what nobody can have driven.
        (Driver, measured(0.0, 0.0), "base 250, distance 252, time 150", in_time_m, true),
        (Passenger, None, "base 250, distance 252, time 150", in_time_m, true),
        (Passenger, measured(900_000.0, 1.0), "base 250, distance 252, time 150", in_time_m, true),
    ] {
        let driven = Some(DrivenSoFar { until: at(360), measured, max_speed_mps: 70.0 });
        let cancel = CommandInput::Cancel { reason: "unsafe", note: Some("too fast"), driven, search: None };
        let change = changed(&ride_in(RideStatus::Started), by, &cancel, at(362));
        assert_eq!(lines_of(&change.ride), lines, "{by:?} {measured:?}");
        assert_eq!((change.event.distance_m, change.event.duration_s), (Some(metres), Some(300.0)));
        assert_eq!(change.event.fare.as_ref().is_some_and(|fare| fare.estimated), estimated);
        assert_eq!(change.event.fee, Some(change.bill.map_or(Money::usd(0), |bill| bill.total)));
        let words = (change.event.reason_code, change.event.note.as_deref());
        assert_eq!(words, (Some(CancelCode::Unsafe), Some("too fast")));
    }
    let free = changed(&ride_in(RideStatus::Pickup), Party::Passenger, &input(Command::Cancel), at(20));
    assert_eq!((free.event.fee, free.bill), (Some(Money::usd(0)), None));
    let late = changed(&ride_in(RideStatus::Pickup), Party::Passenger, &input(Command::Cancel), at(300));
    let bill = late.bill.unwrap();
    assert_eq!((bill.reason, bill.total), (BillReason::Cancellation, Money::usd(300)));
    assert_eq!((late.event.by, late.event.reason.as_deref()), (Some(Party::Passenger), Some("too late")));
    assert_eq!(late.event.reason_code, Some(CancelCode::Other), "words are no code");
}

#[test]
fn waiting_begins_at_the_pickup_costs_after_the_free_time_and_ends_in_a_no_show() {
    let tariffs = Tariffs::default();
    let pickup = ride_in(RideStatus::Pickup);
    let north = |metres: f64| Some(Position { lat: pickup.pickup.lat + metres / 111_195.0, ..pickup.pickup });
    for (driver_at, expected) in
        [(None, Err(Refusal::PlaceUnknown)), (north(160.0), Err(Refusal::TooFar(160))), (north(149.0), Ok(()))]
    {
        let found = decide(&pickup, Party::Driver, &CommandInput::Wait { driver_at }, &tariffs, at(30));
        assert_eq!(found.map(|_| ()), expected, "{driver_at:?}");
    }
    let waiting = ride_in(RideStatus::Waiting);
    assert_eq!(waiting.waiting_at, Some(at(30)));
    for (start_s, total) in [(31, 1_300), (210, 1_300), (211, 1_301), (330, 1_360)] {
        let started = changed(&waiting, Party::Driver, &input(Command::Start), at(start_s)).ride;
        let arrived = changed(&started, Party::Driver, &input(Command::Arrive), at(start_s + 900)).ride;
        let ride = changed(&arrived, Party::System, &input(Command::Complete), at(start_s + 901)).ride;
        assert_eq!(ride.fare().unwrap().total.amount, total, "started after {start_s} s: {}", lines_of(&ride));
    }
    let no_show =
        CommandInput::Cancel { reason: "no_show", note: None, driven: None, search: Some(accepted().request_id) };
    let give_up = |ride: &Ride, second| decide(ride, Party::Driver, &no_show, &tariffs, at(second));
    assert_eq!(give_up(&pickup, 1_000), Err(Refusal::NotWaiting));
    assert_eq!(give_up(&ride_in(RideStatus::Started), 1_000), Err(Refusal::NotWaiting));
    assert_eq!(give_up(&waiting, 329), Err(Refusal::TooEarly(at(330))));
    let ended = changed(&waiting, Party::Driver, &no_show, at(330));
    assert_eq!((lines_of(&ended.ride).as_str(), ended.event.search_continues), ("no_show 300", None));
    assert_eq!(ended.bill.map(|bill| bill.driver_payout.amount), Some(240));
    // Another reason is no no-show: the driver is not paid, and the search goes on.
    let leaves =
        CommandInput::Cancel { reason: "flat tyre", note: None, driven: None, search: Some(accepted().request_id) };
    let left = changed(&waiting, Party::Driver, &leaves, at(400));
    assert_eq!((lines_of(&left.ride).as_str(), left.event.search_continues), ("", Some(true)));
}

#[test]
fn a_reason_has_1_to_500_bytes() {
    let ride = ride_in(RideStatus::Pickup);
    let long = "é".repeat(251);
    for (reason, good) in [("", false), ("x", true), (&long[..500], true), (&long[..], false), ("a\0b", false)] {
        let found = decide(
            &ride,
            Party::Driver,
            &CommandInput::Cancel { reason, note: None, driven: None, search: None },
            &Tariffs::default(),
            at(5),
        );
        assert_eq!(found.is_ok(), good, "{}", reason.len());
        assert!(good || found == Err(Refusal::Reason));
    }
}

#[test]
fn after_five_wrong_pins_there_is_a_pause() {
    let ride = ride_in(RideStatus::Pickup);
    let start = |ride: &Ride, tries, pin, now| {
        decide(ride, Party::Driver, &CommandInput::Start { pin, right: PIN, tries }, &Tariffs::default(), now)
    };
    let mut tries = PinTries::default();
    for n in 1..=PIN_TRIES {
        let Ok(Outcome::WrongPin(next)) = start(&ride, tries, "0000", at(10)) else { panic!("try {n}") };
        assert_eq!(next, PinTries { failures: n, failed_at: Some(at(10)) });
        tries = next;
    }
    // During the pause not even the right PIN is compared.
    assert_eq!(start(&ride, tries, PIN, at(11)), Err(Refusal::PinLocked(29)));
    let Ok(Outcome::WrongPin(next)) = start(&ride, tries, "", at(40)) else { panic!("after the pause") };
    assert_eq!(start(&ride, next, PIN, at(69)), Err(Refusal::PinLocked(1)));
    assert!(matches!(start(&ride, next, PIN, at(70)), Ok(Outcome::Changed(_))));
    // A repeat needs the right PIN too.
    let started = ride_in(RideStatus::Started);
    assert_eq!(start(&started, tries, PIN, at(70)), Ok(Outcome::AlreadyDone));
    assert_eq!(start(&started, tries, "04271", at(70)), Err(Refusal::WrongPin));
}

#[test]
fn time_does_not_go_back_within_a_ride() {
    let ride = ride_in(RideStatus::Started);
    let change = changed(&ride, Party::Driver, &CommandInput::Arrive, at(-500));
    assert_eq!(change.event.occurred_at, ride.updated_at);
    assert_eq!(change.ride.duration_s(), 0.0);
}

/// The rules of a ride a second time, simpler: the events so far, by name, and who cancelled it.
#[derive(Default)]
struct Model {
    events: Vec<&'static str>,
    cancelled_by: Option<Party>,
    wrong_pins: u32,
    wrong_pin_at: i64,
}

impl Model {
    /// The event that the command must lead to, none if it was done before, or the code of the refusal.
    fn expect(
        &mut self,
        by: Party,
        input: &CommandInput<'_>,
        second: i64,
    ) -> Result<Option<&'static str>, &'static str> {
        let last = self.events[self.events.len() - 1];
        let event = match input {
            CommandInput::Wait { .. } | CommandInput::Start { .. } | CommandInput::Arrive if by != Party::Driver => {
                return Err("forbidden");
            }
            CommandInput::Complete(_) if by != Party::System => return Err("forbidden"),
            CommandInput::Cancel { .. } if last == "cancelled" && self.cancelled_by == Some(by) => return Ok(None),
            CommandInput::Complete(_) if last == "completed" => return Ok(None),
            CommandInput::Arrive if ["arrived", "completed"].contains(&last) => return Ok(None),
            CommandInput::Wait { .. } if last != "pickup" && last != "cancelled" => {
                return if self.events.contains(&"waiting") { Ok(None) } else { Err("ride_started") };
            }
            CommandInput::Start { pin, right, .. } if !["pickup", "waiting", "cancelled"].contains(&last) => {
                return if pin == right { Ok(None) } else { Err("wrong_pin") };
            }
            _ if ["completed", "cancelled"].contains(&last) => return Err("ride_ended"),
            CommandInput::Start { .. } if self.wrong_pins >= 5 && second < self.wrong_pin_at + 30 => {
                return Err("pin_locked");
            }
            CommandInput::Start { pin, right, .. } if pin != right => {
                (self.wrong_pins, self.wrong_pin_at) = (self.wrong_pins + 1, second);
                return Err("wrong_pin");
            }
            CommandInput::Wait { .. } => "waiting",
            CommandInput::Start { .. } => "started",
            CommandInput::Arrive if ["pickup", "waiting"].contains(&last) => return Err("ride_not_started"),
            CommandInput::Arrive => "arrived",
            CommandInput::Cancel { .. } if last == "arrived" => return Err("ride_arrived"),
            CommandInput::Cancel { .. } => {
                self.cancelled_by = Some(by);
                "cancelled"
            }
            CommandInput::Complete(_) if last != "arrived" => return Err("ride_not_arrived"),
            CommandInput::Complete(_) => "completed",
        };
        self.events.push(event);
        Ok(Some(event))
    }
}

/// One random command of the walk: seconds since the one before, the caller, the command, and whether the PIN is wrong.
type RandomCommand = (i64, u8, u8, bool, u32);

fn walk(commands: &[RandomCommand]) -> Result<RideStatus, TestCaseError> {
    let first = created();
    let (mut ride, mut second, mut tries) = (first.ride, 0, PinTries::default());
    let mut events = vec![first.event];
    let mut model = Model { events: vec!["pickup"], ..Model::default() };
    let mut bills = Vec::new();
    for (wait_s, by, command, wrong_pin, distance_m) in commands {
        second += wait_s;
        let by = [Party::Driver, Party::Driver, Party::Passenger, Party::System][usize::from(*by)];
        let pin = if *wrong_pin { "9999" } else { PIN };
        let input = match command {
            0 => CommandInput::Wait { driver_at: Some(accepted().pickup) },
            1..=2 => CommandInput::Start { pin, right: PIN, tries },
            3..=4 => CommandInput::Arrive,
            5 => CommandInput::Cancel { reason: "no longer", note: None, driven: None, search: None },
            6..=7 => CommandInput::Complete(Distance::Measured(f64::from(*distance_m))),
            _ => CommandInput::Complete(Distance::Estimated),
        };
        let expected = model.expect(by, &input, second);
        let found = match decide(&ride, by, &input, &Tariffs::default(), at(second)) {
            Ok(Outcome::Changed(change)) => {
                ride = change.ride;
                let status = ride.status.as_str();
                events.push(change.event);
                bills.extend(change.bill);
                Ok(Some(status))
            }
            Ok(Outcome::AlreadyDone) => Ok(None),
            Ok(Outcome::WrongPin(counted)) => {
                tries = counted;
                Err("wrong_pin")
            }
            Err(refusal) => Err(refusal.code()),
        };
        prop_assert_eq!(found, expected, "{:?} {:?} after {:?}", by, input, model.events);
    }
    for (n, pair) in events.windows(2).enumerate() {
        prop_assert_eq!((pair[1].version as usize, &pair[1].previous_hash), (n + 2, &pair[0].hash));
        prop_assert!(pair[0].occurred_at <= pair[1].occurred_at, "{:?}", pair);
        prop_assert_eq!(hash_chain::hash(&pair[1]), pair[1].hash.clone());
    }
    // Billed once, for what its last event says, if at all; and the parts add up to the total.
    let last = &events[events.len() - 1];
    let due = last.fare.as_ref().map_or(last.fee.map_or(0, |fee| fee.amount), |fare| fare.total.amount);
    prop_assert_eq!(bills.iter().map(|b| b.total.amount).sum::<i64>(), due, "{:?}", last);
    prop_assert!(bills.len() <= 1 && bills.iter().all(|b| b.total.amount > 0), "{:?}", bills);
    for bill in &bills {
        prop_assert_eq!(bill.total.amount, bill.platform_fee.amount + bill.driver_payout.amount);
    }
    Ok(last.status)
}

#[test]
fn ten_thousand_random_rides_follow_the_model() {
    // A negative wait is the clock of another process, which is behind.
    let command = (-5..35_i64, 0..4_u8, 0..9_u8, proptest::bool::weighted(1.0 / 3.0), 0..20_000_u32);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 10_000,
        rng_seed: RngSeed::Fixed(5),
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let ends = std::cell::RefCell::new(std::collections::BTreeMap::<&str, u32>::new());
    let run = runner.run(&proptest::collection::vec(command, 1..=28), |commands| {
        let status = walk(&commands)?;
        *ends.borrow_mut().entry(status.as_str()).or_default() += 1;
        Ok(())
    });
    if let Err(failure) = run {
        panic!("{failure}");
    }
    let ends = ends.into_inner();
    assert!(ends.len() == 6 && ends.values().all(|n| *n > 100), "{ends:?}");
}
