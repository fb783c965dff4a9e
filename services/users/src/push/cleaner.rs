//! Deletes the pushes of what sockets of this pod took.

use std::time::Duration;

use platform::{CancellationToken, StoreError};
use streams::UserId;
use tokio::time::sleep;

use super::rows;
use crate::context::Context;

/// What is taken in this time is deleted in one statement: far below the second after which a push is sent.
const GATHER: Duration = Duration::from_millis(50);
/// The pause after a statement that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Deletes the pushes of what sockets took, until `stop`.
pub(crate) async fn run(context: Context, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = context.taken.wait() => {}
        }
        sleep(GATHER).await;
        let taken = context.taken.take();
        if let Err(error) = delete(&context, &taken).await {
            tracing::debug!(%error, "pushes that are not needed were not deleted; they are in a moment");
            sleep(PAUSE).await;
            taken.into_iter().for_each(|(user, seq)| context.taken.add(user, seq));
        }
    }
}

async fn delete(context: &Context, taken: &[(UserId, u64)]) -> Result<(), StoreError> {
    let mut tx = context.store.begin().await?;
    let deleted = rows::delete_taken(&mut tx, taken).await?;
    tx.commit().await?;
    context.platform.metrics.pushes.with_label_values(&["any", "taken"]).inc_by(deleted);
    Ok(())
}
