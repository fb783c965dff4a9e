//! rides as a whole: events in, requests in, events and answers out, on the memory bus, over both stores.

#![allow(clippy::unwrap_used)]

mod audit;
mod bills;
mod harness;
mod http;
mod lifecycle;
mod markets;
mod matches;
mod races;
mod ratings;
mod shares;
mod sos;
