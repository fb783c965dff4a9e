//! Kill points: named places where a test makes the process end at once, as if the machine had taken it away.
//!
//! Only a build with debug assertions has them, and only `RIDESHARE_KILL_AT=name` or `name:n` (the n-th time that the
//! place is reached) arms one. A release build has an empty function in their place, which the compiler removes. Nothing is
//! tidied: no destructor runs, no buffer is written, and the kernel closes what was open.

/// Every point, so that a test can be held to hit them all.
pub const POINTS: &[&str] = &[
    "consumer.before_handler",
    "consumer.before_commit",
    "consumer.before_ack",
    "consumer.before_letter",
    "consumer.before_term",
    "relay.before_publish",
    "relay.before_mark",
    "lost.before_publish",
    "lost.before_advance",
    "session.after_write",
    "mailbox.before_cursor",
    "command.before_ack",
    "positions.before_ack",
    "ride_command.before_reply",
    "match.after_take",
    "match.after_load",
    "match.before_give_back",
];

/// Ends the process here if it is told to.
#[cfg(debug_assertions)]
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

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn reached(_name: &str) {}

/// `name` or `name:n`. What is no number counts as the first time.
#[cfg(debug_assertions)]
fn parse(text: &str) -> (String, std::sync::atomic::AtomicU64) {
    let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
    (name.to_owned(), nth.parse().unwrap_or(1).into())
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_say_which_time() {
        for (text, name, nth) in [("a.b", "a.b", 1), ("a.b:3", "a.b", 3), ("a.b:x", "a.b", 1)] {
            let (parsed, left) = parse(text);
            assert_eq!((parsed.as_str(), left.into_inner()), (name, nth));
        }
    }
}
