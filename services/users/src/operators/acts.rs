//! What operators do with people: one transaction each, with the event of the act. A repeat changes nothing: its answer says `repeated`, and
//! what there is now.

use chrono::{DateTime, Utc};
use platform::operators::acts::{self, ActError, begin};
use platform::operators::shown;
use platform::{Problem, Retry, Transaction};
use serde_json::Value;
use streams::UserId;
use streams::event::ActKind;
use streams::operators::shown::{DriverDocumentsSet, DriverStatusChanged, DriverSuspended, SignedOut, UsersFound};
use streams::operators::{ActHead, Asked, Document, UsersRequest};

use super::view::not_found;
use super::{rows, view};
use crate::account::{self, DriverStatus, standing};
use crate::context::Context;
use crate::document;
use crate::sign_in::phone::Phone;
use crate::sign_in::rows::Ending;
use crate::sign_in::{self, ended};
use crate::tables::Tables;

type AskedUsers = Asked<UsersRequest>;

/// Looks for the user who has this phone. The event has who was found, and not the phone.
pub(super) async fn look_up(
    context: &Context,
    asked: &AskedUsers,
    act: &ActHead,
    phone: &str,
) -> Result<Value, Problem> {
    let phone = &Phone::parse(phone)?;
    Ok(context.store.transact(Retry::Serialization, |tx| look_up_in(context, tx, asked, (act, phone))).await?)
}

async fn look_up_in(
    context: &Context,
    mut tx: Transaction<Tables>,
    asked: &AskedUsers,
    (act, phone): (&ActHead, &Phone),
) -> Result<Value, ActError> {
    let world = &context.platform.world;
    let begun = begin(&mut tx, asked, act).await?;
    let found: Vec<UserId> = rows::with_phone(&mut tx, phone).await?.into_iter().collect();
    let people = rows::people(&mut tx, &found).await?;
    if !begun.is_repeated() {
        let mut event = acts::event(asked, act, ActKind::UserLookedUp, world.now());
        (event.user_id, event.found) = (found.first().copied(), Some(u32::from(!found.is_empty())));
        acts::publish(&mut tx, world, event);
        tx.commit().await?;
    }
    Ok(shown(&UsersFound { act_id: act.act_id, users: people.iter().map(view::user).collect() }))
}

/// Ends all sign-ins of a user.
pub(super) async fn sign_out(
    context: &Context,
    asked: &AskedUsers,
    act: &ActHead,
    user: UserId,
) -> Result<Value, Problem> {
    let retry = Retry::SerializationOrConflict;
    let (ended, begun) = context.store.transact(retry, |tx| sign_out_in(context, tx, asked, (act, user))).await?;
    ended::announce(context, &ended, "signed out by an operator").await;
    Ok(shown(&SignedOut { act: begun.done(act), user_id: user, ended: ended.len() }))
}

async fn sign_out_in(
    context: &Context,
    mut tx: Transaction<Tables>,
    asked: &AskedUsers,
    (act, user): (&ActHead, UserId),
) -> Result<(Vec<streams::sign_ins::EndedSignIn>, acts::Begun), ActError> {
    let world = &context.platform.world;
    if !account::rows::lock(&mut tx, user).await? {
        return Err(not_found("user").into());
    }
    let begun = begin(&mut tx, asked, act).await?;
    if begun.is_repeated() {
        return Ok((Vec::new(), begun));
    }
    let now = world.now();
    let ended = sign_in::rows::end(&mut tx, user, Ending::All, now).await?;
    let mut event = acts::event(asked, act, ActKind::UserSignedOut, now);
    (event.user_id, event.found) = (Some(user), u32::try_from(ended.len()).ok());
    acts::publish(&mut tx, world, event);
    tx.commit().await?;
    Ok((ended, begun))
}

/// Approves a driver.
pub(super) async fn approve(
    context: &Context,
    asked: &AskedUsers,
    act: &ActHead,
    driver: UserId,
) -> Result<Value, Problem> {
    change_status(context, asked, act, (driver, DriverStatus::Approved, None)).await.map(|change| shown(&change))
}

/// Suspends a driver, until a time if there is one.
pub(super) async fn suspend(
    context: &Context,
    asked: &AskedUsers,
    act: &ActHead,
    (driver, until): (UserId, Option<DateTime<Utc>>),
) -> Result<Value, Problem> {
    let change = change_status(context, asked, act, (driver, DriverStatus::Suspended, until)).await?;
    Ok(shown(&DriverSuspended { change, until: until.map(Into::into) }))
}

type StatusChange = (UserId, DriverStatus, Option<DateTime<Utc>>);

async fn change_status(
    context: &Context,
    asked: &AskedUsers,
    act: &ActHead,
    change: StatusChange,
) -> Result<DriverStatusChanged, Problem> {
    let retry = Retry::SerializationOrConflict;
    Ok(context.store.transact(retry, |tx| change_status_in(context, tx, asked, (act, change))).await?)
}

async fn change_status_in(
    context: &Context,
    mut tx: Transaction<Tables>,
    asked: &AskedUsers,
    (act, (driver, status, until)): (&ActHead, StatusChange),
) -> Result<DriverStatusChanged, ActError> {
    let world = &context.platform.world;
    account::rows::lock(&mut tx, driver).await?;
    let begun = begin(&mut tx, asked, act).await?;
    let known = account::rows::driver_of(&mut tx, driver).await?.ok_or_else(|| not_found("driver"))?;
    let answer = |status: DriverStatus, before: DriverStatus| DriverStatusChanged {
        act: begun.done(act),
        user_id: driver,
        status: status.as_str(),
        previous_status: before.as_str(),
    };
    if begun.is_repeated() {
        return Ok(answer(known.status, known.status));
    }
    standing::change_status(context, &mut tx, driver, status, until).await?;
    let kind = if status == DriverStatus::Approved { ActKind::DriverApproved } else { ActKind::DriverSuspended };
    let mut event = acts::event(asked, act, kind, world.now());
    (event.driver_id, event.until) = (Some(driver), until);
    event.previous_status = Some(known.status.as_str().to_owned());
    acts::publish(&mut tx, world, event);
    tx.commit().await?;
    Ok(answer(status, known.status))
}

/// Puts these documents in the place of those of the driver.
pub(super) async fn set_documents(
    context: &Context,
    asked: &AskedUsers,
    act: &ActHead,
    of: (UserId, &[Document]),
) -> Result<Value, Problem> {
    let retry = Retry::SerializationOrConflict;
    Ok(context.store.transact(retry, |tx| set_documents_in(context, tx, asked, (act, of))).await?)
}

async fn set_documents_in(
    context: &Context,
    mut tx: Transaction<Tables>,
    asked: &AskedUsers,
    (act, (driver, documents)): (&ActHead, (UserId, &[Document])),
) -> Result<Value, ActError> {
    let world = &context.platform.world;
    account::rows::lock(&mut tx, driver).await?;
    if account::rows::driver_of(&mut tx, driver).await?.is_none() {
        return Err(not_found("driver").into());
    }
    let begun = begin(&mut tx, asked, act).await?;
    let now = world.now();
    let today = now.date_naive();
    let mut recorded = documents.to_vec();
    if begun.is_repeated() {
        recorded = document::rows::of(&mut tx, driver).await?;
    } else {
        document::rows::put(&mut tx, driver, documents).await?;
        if documents.iter().any(|document| document::is_expired(document, today)) {
            standing::stand_down(context, &mut tx, driver).await?;
        }
        let mut event = acts::event(asked, act, ActKind::DriverDocumentsSet, now);
        (event.driver_id, event.found) = (Some(driver), u32::try_from(documents.len()).ok());
        acts::publish(&mut tx, world, event);
        tx.commit().await?;
    }
    let documents = document::view(&recorded, today);
    Ok(shown(&DriverDocumentsSet { act: begun.done(act), user_id: driver, documents }))
}
