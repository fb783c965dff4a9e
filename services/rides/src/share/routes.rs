//! The parties' routes: making a link, listing one's own, revoking one.

use chrono::{DateTime, Utc};
use platform::store::Retry;
use platform::{Problem, Store, StoreError, Tokens, Transaction, World};
use schemars::JsonSchema;
use serde::Serialize;
use streams::event::rfc3339;
use streams::{RideId, UserId};
use uuid::Uuid;

use super::{Share, TOKEN_BYTES, admit, hash, rows};
use crate::ride::rows::{lock_ride_of, ride_of};
use crate::tables::Tables;

/// A link as its maker sees it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Share")]
pub(crate) struct ShareView {
    share_id: Uuid,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    created_at: DateTime<Utc>,
    /// It ends earlier with the ride.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    expires_at: DateTime<Utc>,
}

/// A link that was just made.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NewShare {
    #[serde(flatten)]
    share: ShareView,
    /// In this answer alone.
    token: String,
    /// The page for a browser.
    url: String,
}

/// Open links of the caller.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ShareList {
    shares: Vec<ShareView>,
}

/// Makes a link. Its token is in this answer alone: whoever lost the answer makes another one.
pub(crate) async fn make(
    (store, tokens, world): (&Store<Tables>, &Tokens, &World),
    public_url: &str,
    (ride, user): (RideId, UserId),
) -> Result<NewShare, Problem> {
    let (share_id, token) = (world.id::<Uuid>(), hex::encode(world.bytes::<TOKEN_BYTES>()));
    let token_hash = hash(tokens, &token);
    let made = store.transact(Retry::Serialization, |tx| make_in(tx, world, (ride, user), share_id, token_hash)).await;
    let share = made??;
    tracing::info!(ride_id = %ride, share_id = %share_id, "a ride is shared");
    let url = format!("{public_url}/s/{token}");
    Ok(NewShare { share: view(&share), token, url })
}

async fn make_in(
    mut tx: Transaction<Tables>,
    world: &World,
    (ride, user): (RideId, UserId),
    share_id: Uuid,
    token_hash: [u8; 32],
) -> Result<Result<Share, Problem>, StoreError> {
    // Locked, so that two requests at once do not both make the last link.
    let Some(ride) = lock_ride_of(&mut tx, ride, user).await? else { return Ok(Err(Problem::not_found("ride"))) };
    let shares = rows::of_ride(&mut tx, ride.ride_id, user).await?;
    let now = world.now();
    if let Err(problem) = admit(&ride, &shares, now) {
        return Ok(Err(problem));
    }
    let share = Share::new(&ride, user, share_id, token_hash, now);
    rows::insert(&mut tx, &share).await?;
    tx.commit().await?;
    Ok(Ok(share))
}

/// The caller's open links of a ride.
pub(crate) async fn list(
    store: &Store<Tables>,
    world: &World,
    (ride, user): (RideId, UserId),
) -> Result<ShareList, Problem> {
    let mut tx = store.begin().await?;
    let ride = ride_of(&mut tx, ride, user).await?.ok_or_else(|| Problem::not_found("ride"))?;
    let shares = rows::of_ride(&mut tx, ride.ride_id, user).await?;
    let is_open = |share: &&Share| share.is_open(world.now()) && !ride.status.is_final();
    Ok(ShareList { shares: shares.iter().filter(is_open).map(view).collect() })
}

/// Revokes a link of the caller, also after the ride; a repeat has no effect.
pub(crate) async fn revoke(
    store: &Store<Tables>,
    world: &World,
    (ride, user): (RideId, UserId),
    share: Uuid,
) -> Result<(), Problem> {
    let mut tx = store.begin().await?;
    if !rows::revoke(&mut tx, (ride, user, share), world.now()).await? {
        return Err(Problem::not_found("link"));
    }
    Ok(tx.commit().await?)
}

/// A link as its maker sees it.
fn view(share: &Share) -> ShareView {
    let Share { share_id, created_at, expires_at, .. } = *share;
    ShareView { share_id, created_at, expires_at }
}
