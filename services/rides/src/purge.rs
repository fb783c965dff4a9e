//! What rides erases when its time is over: the comments of ratings, links, and calls for help. Rides, events and the ledger stay.

use std::sync::Arc;

use platform::{Platform, Store, StoreError};

use crate::config::Config;
use crate::tables::Tables;
use crate::{rating, share, sos};

/// Erases what is older than the settings allow, a bounded number of rows in each transaction.
///
/// # Errors
/// [`StoreError`]; the next purge erases what remains.
pub(crate) async fn run(platform: Platform, store: Store<Tables>, config: Arc<Config>) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    share::rows::purge(&mut tx, platform.world.now() - share::ENDED_RETENTION).await?;
    let now = platform.world.now();
    sos::rows::purge(&mut tx, now - config.sos_retention, now).await?;
    tx.commit().await?;
    let comments_before = platform.world.now() - config.comment_retention;
    loop {
        let mut tx = store.begin().await?;
        let is_done = rating::rows::erase_comments(&mut tx, comments_before).await?;
        tx.commit().await?;
        if is_done {
            return Ok(());
        }
    }
}
