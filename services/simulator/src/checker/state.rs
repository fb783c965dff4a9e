//! Whether the state that a welcome names is what the events up to its `seq` say. Pure.

use serde_json::Value;

use super::ride::Party;
use super::rides::Rides;
use crate::frame::text;

/// A ride as a state shows it.
#[derive(Debug, PartialEq, Eq)]
struct ShownRide<'a> {
    ride_id: &'a str,
    version: u64,
}

/// What is wrong with the ride of `state`, when `user` has received exactly the events up to its `seq`.
pub(super) fn ride_problems(rides: &Rides, party: Party, user: &str, state: &Value) -> Vec<String> {
    let ride = state.get("ride").filter(|ride| !ride.is_null());
    let shown = ride.map(|ride| ShownRide {
        ride_id: text(ride, "ride_id"),
        version: ride.get("version").and_then(Value::as_u64).unwrap_or(0),
    });
    let live = rides.newest_of_live(party, user).map(|(ride_id, version)| ShownRide { ride_id, version });
    let mut problems = Vec::new();
    if shown != live {
        problems.push(format!("{user}: the state shows {shown:?}, and the events up to its seq {live:?}"));
    }
    let before_start = ride.is_some_and(|ride| ["pickup", "waiting"].contains(&text(ride, "status")));
    let has_pin = ride.is_some_and(|ride| !text(ride, "pin").is_empty());
    if has_pin != (before_start && party == Party::Passenger) {
        problems.push(format!("{user}: a PIN in the state of the {}: {has_pin}, {shown:?}", party.name()));
    }
    problems
}
