//! The kinds of failure of the store, by what the caller can do about them.

use super::plans;

/// Why the store did not do what it was asked; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, or no answer within the time limit: the same statement may succeed later. After a commit, the outcome
    /// is unknown.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A serialization failure, a deadlock or a lock timeout: the same transaction will succeed when it is retried.
    #[error("the transaction conflicts with a concurrent one: {0}")]
    Serialization(String),
    /// A constraint refuses the change, and will refuse it again.
    #[error("constraint {constraint} refuses it")]
    Conflict {
        /// The constraint's name, as in the migrations.
        constraint: String,
    },
    /// The role of the address lacks a right.
    #[error("the database role lacks a right: {0}")]
    Forbidden(String),
    /// A fault in the program or the schema.
    #[error("database: {0}")]
    Other(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        match &error {
            sqlx::Error::Database(db) => {
                let code = db.code().unwrap_or_default();
                match (code.get(..2), code.as_ref()) {
                    // serialization_failure, deadlock_detected, lock_not_available.
                    (_, "40001" | "40P01" | "55P03") => Self::Serialization(text),
                    _ if db.try_downcast_ref().is_some_and(plans::is_outdated) => Self::Serialization(text),
                    // query_canceled by statement_timeout, in_failed_sql_transaction: a retry fails in the same way.
                    (_, "57014" | "25P02") => Self::Other(text),
                    // Connection exceptions, lack of resources, operator intervention, an ended transaction.
                    (Some("08" | "53" | "57" | "25"), _) => Self::Unavailable(text),
                    // insufficient_privilege.
                    (_, "42501") => Self::Forbidden(text),
                    // Integrity constraint violation.
                    (Some("23"), _) => Self::Conflict { constraint: db.constraint().unwrap_or_default().to_owned() },
                    _ => Self::Other(text),
                }
            }
            // A server that stops in the middle of a reply leaves bytes that the protocol cannot parse.
            sqlx::Error::Protocol(_)
            | sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(text),
            _ => Self::Other(text),
        }
    }
}
