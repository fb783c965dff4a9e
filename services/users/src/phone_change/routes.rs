//! `POST /v1/me/phone` sends both codes, `POST /v1/me/phone/confirm` takes them. Both are within the shared limits of codes.

use axum::extract::State;
use axum::http::StatusCode;
use platform::api::Accepted;
use platform::problem::Json;
use platform::{Access, ClientAddress, Problem, Retry, StoreError, Transaction, plain_text};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use streams::UserId;
use streams::sign_ins::EndedSignIn;
use uuid::Uuid;

use super::{Comparison, PhoneChange, PresentedCodes, rows};
use crate::account::{self, Profile, standing};
use crate::commands::command::CommandError;
use crate::context::Context;
use crate::sign_in::delivery::OtpDelivery;
use crate::sign_in::otp::routes::{self as codes, Taken};
use crate::sign_in::otp::{self, CODE_LIFE_S};
use crate::sign_in::phone::Phone;
use crate::sign_in::rows::Ending;
use crate::sign_in::{self, ended};
use crate::tables::Tables;

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PhoneChangeRequest")]
pub(crate) struct ChangeRequest {
    /// The new one.
    phone: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PhoneChange")]
pub(crate) struct ChangeResponse {
    change_id: Uuid,
    expires_in_s: i64,
    /// With `OTP_DELIVERY=response` alone, as the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    old_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_code: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PhoneChangeConfirmation")]
pub(crate) struct Confirmation {
    change_id: String,
    old_code: String,
    new_code: String,
}

/// 202, whoever has the new number.
pub(crate) async fn request(
    State(context): State<Context>,
    access: Access,
    address: ClientAddress,
    Json(request): Json<ChangeRequest>,
) -> Result<Accepted<ChangeResponse>, Problem> {
    let new_phone = Phone::parse(&request.phone)?;
    let mut tx = context.store.begin().await?;
    let old_phone = account::rows::phone_of(&mut tx, access.user).await?.ok_or_else(no_such_user)?;
    drop(tx);
    if old_phone == new_phone {
        return Err(Problem::conflict("same_phone", "this is your number already"));
    }
    codes::take_for_request(&context, &old_phone, address).await?;
    codes::take_for_request(&context, &new_phone, address).await?;
    new_phone.check_receives_codes(&context.config.code_countries)?;

    let world = &context.platform.world;
    let (change_id, old_code, new_code) = (world.id::<Uuid>(), otp::code(world), otp::code(world));
    let (old, new) = ((old_phone.clone(), &*old_code), (new_phone.clone(), &*new_code));
    let change = PhoneChange::new(&context.tokens, (access.user, change_id), old, new, world.now());
    let mut tx = context.store.begin().await?;
    rows::put(&mut tx, &change).await?;
    tx.commit().await?;
    // The new number first: whoever mistyped it and gets no code there leaves the old one alone.
    for (phone, code) in [(&new_phone, &new_code), (&old_phone, &old_code)] {
        if let Err(error) = context.config.otp_delivery.deliver(&context.codes_client, phone, code).await {
            tracing::warn!(
                error,
                calling_code = phone.calling_code(),
                "a code for a change of phone was not delivered"
            );
            let mut tx = context.store.begin().await?;
            if rows::lock(&mut tx, access.user).await?.is_some_and(|pending| pending.change_id == change_id) {
                rows::delete(&mut tx, access.user).await?;
            }
            tx.commit().await?;
            return Err(Problem::unavailable());
        }
    }
    let shown = context.config.otp_delivery == OtpDelivery::Response;
    let (old_code, new_code) = (shown.then_some(old_code), shown.then_some(new_code));
    Ok(Accepted(ChangeResponse { change_id, expires_in_s: CODE_LIFE_S, old_code, new_code }))
}

/// What one transaction of a confirmation comes to.
enum Confirmed {
    Changed(Vec<EndedSignIn>),
    Repeated,
    Refused(Problem),
}

/// 200 with the profile, also for a repeat until the codes expire. All other sign-ins of the user end.
pub(crate) async fn confirm(
    State(context): State<Context>,
    access: Access,
    address: ClientAddress,
    Json(request): Json<Confirmation>,
) -> Result<Json<Profile>, Problem> {
    let presented = PresentedCodes {
        // An id that is none belongs to no change.
        change_id: request.change_id.parse().unwrap_or_default(),
        old_code: plain_text::code(&request.old_code),
        new_code: plain_text::code(&request.new_code),
    };
    let taken = codes::take_for_comparison(&context, address).await?;
    let retry = Retry::SerializationOrConflict;
    let confirmed = context.store.transact(retry, |tx| confirm_in(&context, tx, &access, &presented, &taken)).await;
    let confirmed = match confirmed {
        // Somebody has signed up with the number at the same moment, again and again.
        Err(CommandError::Store(StoreError::Conflict { .. })) => Confirmed::Refused(phone_taken()),
        confirmed => confirmed.map_err(|error| error.into_refusal().into_problem())?,
    };
    match confirmed {
        Confirmed::Refused(problem) => return Err(problem),
        Confirmed::Repeated => {}
        Confirmed::Changed(ended) => ended::announce(&context, &ended, "the phone number has changed").await,
    }
    let mut tx = context.store.begin().await?;
    account::rows::profile_of(&mut tx, access.user).await?.map(Json).ok_or_else(no_such_user)
}

async fn confirm_in(
    context: &Context,
    mut tx: Transaction<Tables>,
    access: &Access,
    presented: &PresentedCodes,
    taken: &Taken,
) -> Result<Confirmed, CommandError> {
    let (user, now) = (access.user, context.platform.world.now());
    if !account::rows::lock(&mut tx, user).await? {
        return Ok(Confirmed::Refused(no_such_user()));
    }
    let Some(change) = rows::lock(&mut tx, user).await? else { return Ok(Confirmed::Refused(invalid_codes())) };
    match change.compare(&context.tokens, presented, now) {
        Comparison::Dead => return Ok(Confirmed::Refused(invalid_codes())),
        Comparison::Wrong => {
            rows::put(&mut tx, &PhoneChange { tries: change.tries - 1, ..change }).await?;
            tx.commit().await?;
            tracing::info!(user_id = %user, "wrong codes were presented for a change of phone");
            return Ok(Confirmed::Refused(invalid_codes()));
        }
        Comparison::Right | Comparison::Repeated => codes::put_back(context, &mut tx, taken, &[]).await?,
    }
    if change.done_at.is_some() {
        tx.commit().await?;
        return Ok(Confirmed::Repeated);
    }
    if account::rows::phone_of(&mut tx, user).await?.as_ref() != Some(&change.old_phone) {
        return Ok(Confirmed::Refused(invalid_codes()));
    }
    if account::rows::exists(&mut tx, &change.new_phone).await? {
        tx.commit().await?;
        return Ok(Confirmed::Refused(phone_taken()));
    }
    standing::remember_suspended(context, &mut tx, user, &change.old_phone).await?;
    account::rows::set_phone(&mut tx, user, &change.new_phone).await?;
    rows::put(&mut tx, &PhoneChange { done_at: Some(now), ..change }).await?;
    let ended = end_others(&mut tx, user, access, now).await?;
    tx.commit().await?;
    tracing::info!(user_id = %user, "the phone number of an account has changed");
    Ok(Confirmed::Changed(ended))
}

/// The other sign-ins may be of whoever has the old phone now. Without a sign-in of its own (a token of the version before) all end.
async fn end_others(
    tx: &mut Transaction<Tables>,
    user: UserId,
    access: &Access,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<Vec<EndedSignIn>, StoreError> {
    let ending = access.sign_in.map_or(Ending::All, Ending::AllBut);
    sign_in::rows::end(tx, user, ending, now).await
}

/// One text for all cases: it must not reveal which code is wrong.
fn invalid_codes() -> Problem {
    let message = "a code is wrong, used or expired; after five wrong pairs only a new change helps";
    Problem::new(StatusCode::UNAUTHORIZED, "invalid_code", message)
}

fn phone_taken() -> Problem {
    Problem::conflict("phone_taken", "another account has this number: delete that one first, or sign in to it")
}

fn no_such_user() -> Problem {
    Problem::unauthorized("there is no such user any more: sign in again")
}
