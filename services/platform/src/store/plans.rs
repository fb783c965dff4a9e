//! Prepared statements whose plans a migration has made useless. A migration of a newer version adds a column while this process runs;
//! PostgreSQL then refuses every prepared `select *` of its connections, for as long as they live. So the connections are replaced.

use std::sync::atomic::{AtomicU32, Ordering};

/// More than all pools of a process have connections. The most that are replaced after an error: a reconnection costs milliseconds.
const REPLACED_MAX: u32 = 128;

/// How many connections are replaced when they are taken next.
static TO_REPLACE: AtomicU32 = AtomicU32::new(0);

/// Whether this error of PostgreSQL says so; then the connections are replaced, and the transaction may be tried again.
pub(super) fn is_outdated(code: &str, text: &str) -> bool {
    // feature_not_supported: only the text says that it is about a plan.
    let is_outdated = code == "0A000" && text.contains("cached plan");
    if is_outdated {
        TO_REPLACE.store(REPLACED_MAX, Ordering::Relaxed);
    }
    is_outdated
}

/// Whether a connection that is taken from its pool may be used, or is replaced.
pub(super) fn is_usable() -> bool {
    TO_REPLACE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
}
