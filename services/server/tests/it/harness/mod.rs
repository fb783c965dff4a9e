//! What the tests of the whole platform share: platforms that run, and clients that speak only the contract.

pub(crate) mod client;
pub(crate) mod running;
