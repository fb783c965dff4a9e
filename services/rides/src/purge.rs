//! What rides erases when its time is over: the comments of ratings, links, calls for help, and what operators say of rides. Rides, events and
//! the ledger stay.

use std::sync::Arc;

use chrono::TimeDelta;
use platform::{Platform, Store, StoreError};

use crate::config::Config;
use crate::tables::Tables;
use crate::{note, rating, refund, share, sos};

/// How long what operators say of a ride is stored: as long as ADMIN_STREAM has their acts. It is erased with the account of a party, but an
/// operator may write later about somebody who is gone.
const OPERATORS_WORDS: TimeDelta = TimeDelta::days(365);

/// Erases what is older than the settings allow, a bounded number of rows in each transaction.
///
/// # Errors
/// [`StoreError`]; the next purge erases what remains.
pub(crate) async fn run(platform: Platform, store: Store<Tables>, config: Arc<Config>) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    share::rows::purge(&mut tx, platform.world.now() - share::ENDED_RETENTION).await?;
    let now = platform.world.now();
    sos::rows::purge(&mut tx, now - config.sos_retention, now).await?;
    note::rows::purge(&mut tx, now - OPERATORS_WORDS).await?;
    refund::rows::erase_reasons(&mut tx, now - OPERATORS_WORDS).await?;
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
