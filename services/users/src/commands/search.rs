//! `finder.update`: a passenger begins or ends a search.

use chrono::Duration;
use platform::{Problem, Transaction};
use serde_json::{Value, json};
use streams::UserId;

use super::command::CommandError;
use crate::context::Context;
use crate::search::Search;
use crate::tables::Tables;
use crate::trip::Trip;
use crate::{live_ride, search};

/// Begins a search; one with the same trip that is open already is the result of a repeat. Another trip ends the open
/// search first.
pub(crate) async fn begin(
    context: &Context,
    mut tx: Transaction<Tables>,
    user: UserId,
    trip: Trip,
) -> Result<Value, CommandError> {
    let open = search::rows::lock_of_passenger(&mut tx, user).await?;
    if let Some(open) = open.filter(|open| open.trip == trip) {
        return Ok(json!({"request_id": open.request_id}));
    }
    if live_ride::rows::of_passenger(&mut tx, user).await?.is_some() {
        let message = "you are in a ride: another can be asked for when it is over";
        return Err(Problem::conflict("ride_live", message).into());
    }
    let mut now = context.platform.world.now();
    if let Some(open) = open {
        search::rows::delete(&mut tx, &open).await?;
        let ended = open.ended(now);
        // A reader that sorts by time must see the end of the old search before the beginning of the new one.
        now = ended.occurred_at().unwrap_or(now) + Duration::microseconds(1);
        context.publish(&mut tx, &ended);
    }
    let search = Search {
        request_id: context.platform.world.id(),
        user_id: user,
        trip,
        began_at: now,
        expires_at: now + Duration::seconds(i64::from(context.config.request_ttl_s)),
    };
    search::rows::insert(&mut tx, &search).await?;
    context.publish(&mut tx, &search.began());
    tx.commit().await?;
    Ok(json!({"request_id": search.request_id}))
}

pub(crate) async fn end(context: &Context, mut tx: Transaction<Tables>, user: UserId) -> Result<Value, CommandError> {
    let Some(open) = search::rows::lock_of_passenger(&mut tx, user).await? else {
        return Ok(json!({"request_id": null}));
    };
    search::rows::delete(&mut tx, &open).await?;
    let now = context.platform.world.now();
    context.publish(&mut tx, &open.ended(now));
    tx.commit().await?;
    Ok(json!({"request_id": open.request_id}))
}
