//! Sign-in: tokens and their refresh.

use axum::Router;
use chrono::{DateTime, Utc};
use platform::{StoreError, Transaction};

use crate::{Tables, Users};

/// Codes, sign-ins and refresh tokens in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {}

pub(crate) fn router() -> Router<Users> {
    Router::new()
}

/// Deletes what has expired.
pub(crate) async fn purge(_tx: &mut Transaction<Tables>, _now: DateTime<Utc>) -> Result<(), StoreError> {
    Ok(())
}
