//! Drivers go off duty when a document of theirs expires.

use platform::{Retry, StoreError, Transaction};
use streams::UserId;

use super::rows;
use crate::account::standing;
use crate::context::Context;
use crate::tables::Tables;

/// Drivers whom one call takes off duty.
const EXPIRED_MAX: u32 = 100;

/// Takes drivers off duty whose papers have expired. Open offers of theirs are withdrawn; a ride under way ends as usual.
///
/// # Errors
/// [`StoreError`]; the next call does it.
pub(crate) async fn expire(context: &Context) -> Result<(), StoreError> {
    let today = context.platform.world.now().date_naive();
    let mut tx = context.store.begin().await?;
    let drivers = rows::on_duty_with_expired(&mut tx, today, EXPIRED_MAX).await?;
    drop(tx);
    for driver in drivers {
        context.store.transact(Retry::Serialization, |tx| stand_down(context, tx, driver)).await?;
        tracing::info!(user_id = %driver, "a driver is off duty: a document has expired");
    }
    Ok(())
}

async fn stand_down(context: &Context, mut tx: Transaction<Tables>, driver: UserId) -> Result<(), StoreError> {
    standing::stand_down(context, &mut tx, driver).await?;
    tx.commit().await
}
