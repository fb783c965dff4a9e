//! The transactional consumer: the one mechanism that all handlers share.

mod requeue;
mod worker;

// The former path, until every crate uses the new one.
#[doc(hidden)]
pub use crate::dead_letters::sweeper;
pub use worker::{Ended, Failure, Handler, Received, Worker};
pub(crate) use worker::{FULL_WAIT, part, pull, put_back};
