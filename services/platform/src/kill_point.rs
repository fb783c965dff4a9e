//! Kill points: named places where a test makes the process end at once, as a power failure would.
//!
//! Only a build with the feature `simulation` has them, and only `RIDESHARE_KILL_AT=name`, or `name:n` for the n-th time that
//! the place is reached, arms one. In other builds [`reached`] is an empty function, which the compiler removes. The process
//! aborts: no destructor runs, no buffer is flushed, and the kernel closes its sockets and files.

/// Every point, so that a test can require that all of them are hit.
pub const POINTS: &[&str] = &[
    "consumer.before_handler",
    "consumer.before_commit",
    "consumer.before_ack",
    "consumer.before_letter",
    "consumer.before_term",
    "relay.before_publish",
    "relay.before_mark",
    "recovery.before_publish",
    "recovery.before_advance",
    "session.after_write",
    "mailbox.before_cursor",
    "command.before_ack",
    "positions.before_ack",
    "ride_command.before_reply",
    "match.after_take",
    "match.after_load",
    "match.before_give_back",
    "push.before_send",
    "push.before_record",
    "sos.before_send",
    "sos.before_record",
    "sign_in.before_announce",
    "operator.after_record",
];

/// Ends the process if this point is armed.
#[cfg(feature = "simulation")]
pub fn reached(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    debug_assert!(POINTS.contains(&name), "{name} is not in the list of kill points");
    let armed = ARMED.get_or_init(|| std::env::var("RIDESHARE_KILL_AT").ok().map(|text| parse(&text)));
    if let Some((at, left)) = armed
        && at == name
        && left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        eprintln!("kill point {name}");
        std::process::abort();
    }
}

/// Does nothing.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub const fn reached(_name: &str) {}

/// Reads `name` or `name:n`; an `n` that is no number is 1.
#[cfg(feature = "simulation")]
fn parse(text: &str) -> (String, std::sync::atomic::AtomicU64) {
    let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
    (name.to_owned(), nth.parse().unwrap_or(1).into())
}

#[cfg(all(test, feature = "simulation"))]
mod tests {
    use super::*;

    #[test]
    fn a_point_may_be_armed_for_its_nth_time() {
        for (text, name, nth) in [("a.b", "a.b", 1), ("a.b:3", "a.b", 3), ("a.b:x", "a.b", 1)] {
            let (parsed, left) = parse(text);
            assert_eq!((parsed.as_str(), left.into_inner()), (name, nth));
        }
    }
}
