//! Prepared statements whose plans a migration has made useless. A migration of a newer version adds a column while this process runs;
//! PostgreSQL then refuses every prepared `select *` of its connections, for as long as they live. So the connections are replaced.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::PgDatabaseError;

/// The function of PostgreSQL that refuses such a plan. Its code, feature_not_supported, has other causes too, and its text is translated.
const ROUTINE: &str = "RevalidateCachedQuery";

/// How many connections all pools of this process may have.
static CONNECTIONS: AtomicU32 = AtomicU32::new(0);
/// How many connections are replaced when they are taken next: a reconnection costs milliseconds.
static TO_REPLACE: AtomicU32 = AtomicU32::new(0);

/// Counts the connections of a new pool. A pool lives as long as its process.
pub(super) fn add_connections(connections: u32) {
    CONNECTIONS.fetch_add(connections, Ordering::Relaxed);
}

/// Whether this error of PostgreSQL says so; then the connections are replaced, and the transaction may be tried again.
pub(super) fn is_outdated(error: &PgDatabaseError) -> bool {
    let is_outdated = error.code() == "0A000" && error.routine() == Some(ROUTINE);
    if is_outdated {
        TO_REPLACE.store(CONNECTIONS.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    is_outdated
}

/// Whether a connection that is taken from its pool may be used, or is replaced.
pub(super) fn is_usable() -> bool {
    TO_REPLACE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
}
