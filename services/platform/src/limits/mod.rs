//! How often somebody may do something: one table of limits, one rule, addresses as limits see them, and the buckets of one
//! process.
//!
//! Limits that are counted in each process are checked by the [`Limiter`]. Limits where money or guessing is at stake are
//! shared by all processes: their buckets are rows of the users service, under the same table and the same rule. This module
//! owns neither routes nor rows.

mod address;
mod buckets;
mod gcra;
mod http;
mod key;
mod limiter;
mod table;

pub use address::{ClientAddress, TrustedProxies};
pub use gcra::{Admission, Quota};
pub use key::Key;
pub use limiter::{LOG_INTERVAL_S, Limiter, Refused};
pub use table::{Amount, By, Definition, Limit, Limits, Scope, TABLE, markdown};

#[cfg(test)]
mod tests;
