//! The end of an account. Everything that belongs to the person is erased in one transaction: phone, name, vehicle and plate, beacon,
//! mailbox, devices, codes, and what their sign-ins say of their devices. The id stays, because rides, the ledger and the audit trail name
//! people by nothing else. The phone is free: who signs up with it is a new person.
//!
//! An event that was on its way has no entry in the mailbox of a deleted person (`handlers.rs`). What a command wrote that raced with the
//! deletion, [`sweep`] erases. What rides stores of the person, such as the comments of ratings, it erases when it is asked (`elsewhere`).

use chrono::{DateTime, TimeDelta, Utc};
use platform::{Problem, Retry, StoreError, Transaction};
use streams::UserId;
use streams::sign_ins::EndedSignIn;

use super::{elsewhere, rows, standing};
use crate::commands::command::CommandError;
use crate::context::Context;
use crate::offer::{self, OfferState};
use crate::sign_in::rows::Ending;
use crate::sign_in::{self, ended, otp, previous_version};
use crate::state::debts;
use crate::tables::Tables;
use crate::{live_ride, mailbox, party, phone_change, presence, push, search};

/// For how long after a deletion late rows are looked for: longer than an event waits on a stream that has entries for people.
const LATE_MAX: TimeDelta = TimeDelta::days(8);

/// Ends the account of `user`. A repeat has no effect.
///
/// # Errors
/// [`Problem`] `debt_open`, `ride_live`; `unavailable` if rides does not say what the user owes. Nothing was changed.
pub(crate) async fn delete(context: &Context, user: UserId) -> Result<(), Problem> {
    let debts = debts::of(context, user).await.ok_or_else(Problem::unavailable)?;
    if !debts.is_empty() {
        let message = "you owe something for a ride: the account can be deleted when it is paid";
        return Err(Problem::conflict("debt_open", message));
    }
    // A conflict means that another command of the same user committed first. The retry sees its rows.
    let retry = Retry::SerializationOrConflict;
    let deleted = context.store.transact(retry, |tx| delete_in(context, tx, user)).await;
    let ended = deleted.map_err(|error| error.into_refusal().into_problem())?;
    ended::announce(context, &ended, "the account was deleted").await;
    party::changed(context, user).await;
    // Without an answer the hourly sweep has it done.
    elsewhere::erase(context, &[user]).await;
    Ok(())
}

async fn delete_in(
    context: &Context,
    mut tx: Transaction<Tables>,
    user: UserId,
) -> Result<Vec<EndedSignIn>, CommandError> {
    if !rows::lock(&mut tx, user).await? {
        return Ok(Vec::new());
    }
    let now = context.platform.world.now();
    if is_live(&mut tx, user, now).await? {
        let message = "you are in a search or a ride: the account can be deleted when it is over";
        return Err(Problem::conflict("ride_live", message).into());
    }
    standing::withdraw_offers(context, &mut tx, user).await?;
    standing::go_off_duty(context, &mut tx, user).await?;
    let ended = sign_in::rows::end(&mut tx, user, Ending::All, now).await?;
    sign_in::rows::erase_devices(&mut tx, user).await?;
    previous_version::erase(&mut tx, user).await?;
    if let Some(phone) = rows::phone_of(&mut tx, user).await? {
        otp::rows::erase(&mut tx, &phone).await?;
        standing::remember_suspended(context, &mut tx, user, &phone).await?;
    }
    phone_change::rows::delete(&mut tx, user).await?;
    rows::delete(&mut tx, user, now).await?;
    erase_late(&mut tx, &[user]).await?;
    tx.commit().await?;
    tracing::info!(user_id = %user, "an account was deleted");
    Ok(ended)
}

/// Whether a search is open, an accepted offer has yet to become a ride, or a ride is live. Searches and offers stay locked, so that no
/// driver accepts one meanwhile.
async fn is_live(tx: &mut Transaction<Tables>, user: UserId, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let is_searching = search::rows::lock_of_passenger(tx, user).await?.is_some();
    let offers = offer::rows::lock_live_of_driver(tx, user).await?;
    let accepted = offers.iter().filter(|offer| offer.state == OfferState::Accepted).map(|offer| offer.match_id);
    let becomes_a_ride = offer::rows::any_without_ride(tx, &accepted.collect::<Vec<_>>(), now).await?;
    let rides = live_ride::rows::current(tx, user).await?;
    Ok(is_searching || becomes_a_ride || rides.driven.is_some() || rides.ridden.is_some())
}

/// Erases what events and commands write without a look at the account.
async fn erase_late(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<(), StoreError> {
    presence::rows::delete_beacons(tx, users).await?;
    push::rows::erase(tx, users).await?;
    mailbox::rows::erase(tx, users).await
}

/// Erases what came late for accounts that have ended.
///
/// # Errors
/// [`StoreError`]; the next call does it.
pub(crate) async fn sweep(context: &Context) -> Result<(), StoreError> {
    let mut tx = context.store.begin().await?;
    let deleted = rows::deleted_since(&mut tx, context.platform.world.now() - LATE_MAX).await?;
    if !deleted.is_empty() {
        erase_late(&mut tx, &deleted).await?;
    }
    tx.commit().await?;
    elsewhere::sweep(context).await
}
