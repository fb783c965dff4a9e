//! Decisions are pure and synchronous: no I/O, no clock, no randomness, no unordered iteration in these files.

use super::{Source, words};

const PURE: &[&str] = &[
    "services/geo/src/device_clock.rs",
    "services/geo/src/newest.rs",
    "services/location/src/driver/mod.rs",
    "services/location/src/positions.rs",
    "services/location/src/track/arrived_rides.rs",
    "services/location/src/track/devices.rs",
    "services/location/src/track/ends.rs",
    "services/location/src/track/fix.rs",
    "services/location/src/track/line.rs",
    "services/location/src/track/mod.rs",
    "services/location/src/track/way.rs",
    "services/match/src/engine/assign.rs",
    "services/match/src/engine/rules.rs",
    "services/match/src/engine/state.rs",
    "services/match/src/positions.rs",
    "services/platform/src/limits/address.rs",
    "services/platform/src/limits/buckets.rs",
    "services/platform/src/limits/gcra.rs",
    "services/platform/src/limits/key.rs",
    "services/platform/src/limits/table.rs",
    "services/platform/src/token/keys.rs",
    "services/pricing/src/lib.rs",
    "services/rides/src/audit/database.rs",
    "services/rides/src/audit/stream.rs",
    "services/rides/src/hash_chain.rs",
    "services/rides/src/ledger/mod.rs",
    "services/rides/src/payment/mod.rs",
    "services/rides/src/replay.rs",
    "services/rides/src/ride/lifecycle.rs",
    "services/rides/src/ride/mod.rs",
    "services/simulator/src/frame.rs",
    "services/simulator/src/position.rs",
    "services/users/src/account/mod.rs",
    "services/users/src/commands/command.rs",
    "services/users/src/gateway/client_limits.rs",
    "services/users/src/gateway/frame.rs",
    "services/users/src/gateway/live/feed.rs",
    "services/users/src/live_ride/current.rs",
    "services/users/src/live_ride/mod.rs",
    "services/users/src/live_ride/position.rs",
    "services/users/src/mailbox/device.rs",
    "services/users/src/mailbox/mod.rs",
    "services/users/src/mailbox/notification.rs",
    "services/users/src/offer/mod.rs",
    "services/platform/src/plain_text.rs",
    "services/users/src/presence/known.rs",
    "services/users/src/presence/mod.rs",
    "services/users/src/rate_limit/mod.rs",
    "services/users/src/search/mod.rs",
    "services/users/src/sign_in/mod.rs",
    "services/users/src/sign_in/otp/admission.rs",
    "services/users/src/sign_in/phone.rs",
    "services/users/src/signed_text.rs",
    "streams/src/driven_distance.rs",
    "streams/src/event/ids.rs",
    "streams/src/event/location.rs",
    "streams/src/event/matching.rs",
    "streams/src/event/mod.rs",
    "streams/src/event/money.rs",
    "streams/src/event/payment.rs",
    "streams/src/event/position.rs",
    "streams/src/event/rfc3339.rs",
    "streams/src/event/ride.rs",
    "streams/src/event/subject.rs",
    "streams/src/event/user.rs",
    "streams/src/event/validation.rs",
    "streams/src/newest_position.rs",
    "streams/src/topology/config.rs",
    "streams/src/topology/mod.rs",
    "streams/src/topology/proof.rs",
    "streams/src/topology/table.rs",
];

/// Tasks, sockets and SQL; the clock and the randomness of the world; maps whose order differs from run to run.
const IMPURE: &[&str] = &[
    "async",
    "await",
    "sqlx",
    "tokio",
    "World",
    "SystemTime",
    "Instant",
    "rand",
    "HashMap",
    "HashSet",
    "thread",
    "fs",
];

#[test]
fn pure_files_have_no_io_clock_randomness_or_unordered_map() {
    let mut wrong = Vec::new();
    for path in PURE {
        let code = Source::read(path).code();
        wrong.extend(words(&code).filter(|word| IMPURE.contains(word)).map(|word| format!("{path}: {word}")));
    }
    assert_eq!(wrong, Vec::<String>::new());
}
