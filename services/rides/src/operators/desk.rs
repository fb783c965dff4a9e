//! What the answers to operators are made from.

use std::sync::Arc;

use platform::{Platform, Problem, Store};

use crate::config::Config;
use crate::tables::Tables;

#[derive(Debug, Clone)]
pub(super) struct Desk {
    pub(super) platform: Platform,
    pub(super) store: Store<Tables>,
    pub(super) config: Arc<Config>,
}

/// 404.
pub(super) fn not_found() -> Problem {
    Problem { message: "there is no such ride".to_owned(), ..Problem::not_found("ride") }
}
