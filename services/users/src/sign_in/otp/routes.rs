//! Requesting a code and presenting one, each within the shared limits. The sign-in that begins with a right code is the
//! caller's.
//!
//! The limits have a transaction of their own before the code's: what was taken stays taken if the client goes away, and the rows
//! that everybody shares are locked for one short transaction only.

use axum::extract::State;
use axum::http::StatusCode;
use platform::api::Accepted;
use platform::limits::Refused;
use platform::problem::Json;
use platform::{ClientAddress, Limit, Problem, StoreError, Transaction};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Asker, Code, CodeMatch, Presented, admission};
use crate::account;
use crate::context::Context;
use crate::rate_limit::{self, Buckets, RowKey};
use crate::sign_in::delivery::OtpDelivery;
use crate::sign_in::otp;
use crate::sign_in::phone::Phone;
use crate::tables::Tables;
use platform::plain_text;

#[derive(Deserialize, JsonSchema)]
pub(crate) struct CodeRequest {
    /// E.164; spaces, dots, hyphens and parentheses in it are left out.
    phone: String,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct CodeResponse {
    /// Seconds.
    expires_in_s: i64,
    /// Whoever presents the code with it is the one who requested it.
    request_id: Uuid,
    /// Only with `OTP_DELIVERY=response`.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct TokenRequest {
    phone: String,
    code: String,
    /// That of the answer to the request of the code: with it, nobody else can use up the tries.
    request_id: Option<String>,
}

/// A hash of `value` under the server's key: phones and addresses are in no row of a limit.
fn short_hash(context: &Context, purpose: &str, value: &str) -> [u8; 16] {
    let hash = context.tokens.keyed_hash(purpose, value);
    std::array::from_fn(|n| hash[n])
}

fn row_key(context: &Context, limit: Limit, owner: &str) -> (Limit, RowKey) {
    (limit, short_hash(context, "limit", &format!("{}:{owner}", limit.name())))
}

fn address_text(address: ClientAddress) -> String {
    address.network().to_string()
}

fn asker(context: &Context, address: ClientAddress) -> Asker {
    short_hash(context, "asker", &address_text(address))
}

pub(crate) async fn request_code(
    State(context): State<Context>,
    address: ClientAddress,
    Json(request): Json<CodeRequest>,
) -> Result<Accepted<CodeResponse>, Problem> {
    let codes = &context.platform.metrics.codes;
    let count = |outcome: &str| codes.with_label_values(&[outcome]).inc();
    let phone = Phone::parse(&request.phone)?;
    let taken = take_for_request(&context, &phone, address).await.inspect_err(|problem| {
        if problem.limit.is_some() {
            count("limited");
        }
    })?;
    // After the limits: whoever tries ranges of numbers that get no code is slowed down as well.
    if let Err(problem) = phone.check_receives_codes(&context.config.code_countries) {
        count("refused");
        tracing::info!(calling_code = phone.calling_code(), "no code is sent to a number of this kind");
        return Err(problem);
    }
    let world = &context.platform.world;
    let (now, request_id, code) = (world.now(), world.id::<Uuid>(), otp::code(world));
    let (asker, hash) = (asker(&context, address), otp::hash(&context.tokens, &phone, &code));
    let mut tx = context.store.begin().await?;
    let last = otp::rows::newest_of(&mut tx, &phone, &asker).await?;
    otp::rows::insert(&mut tx, &phone, &Code::new(request_id, asker, hash, last.as_ref(), now)).await?;
    tx.commit().await?;

    if let Err(error) = context.config.otp_delivery.deliver(&context.codes_client, &phone, &code).await {
        count("undelivered");
        tracing::warn!(error, calling_code = phone.calling_code(), "a one-time code could not be delivered");
        let mut tx = context.store.begin().await?;
        otp::rows::delete(&mut tx, &phone, request_id).await?;
        put_back(&context, &mut tx, &taken, &[Limit::CodesAddress]).await?;
        tx.commit().await?;
        return Err(Problem::unavailable());
    }
    count("sent");
    let code = (context.config.otp_delivery == OtpDelivery::Response).then_some(code);
    Ok(Accepted(CodeResponse { expires_in_s: otp::CODE_LIFE_S, request_id, code }))
}

/// What was taken from which buckets.
pub(crate) struct Taken(Vec<(Limit, RowKey)>);

/// Takes what a code for `phone` costs.
///
/// # Errors
/// `too_many_requests` names the limit that is used up.
pub(crate) async fn take_for_request(
    context: &Context,
    phone: &Phone,
    address: ClientAddress,
) -> Result<Taken, Problem> {
    let mut tx = context.store.begin().await?;
    let (address, number) = (address_text(address), phone.as_str());
    let mut keys = vec![
        row_key(context, Limit::CodesAddress, &address),
        row_key(context, Limit::CodesAsker, &format!("{number} {address}")),
        row_key(context, Limit::CodesNumber, number),
        row_key(context, Limit::CodesFirst, &address),
    ];
    if !account::rows::exists(&mut tx, phone).await? {
        keys.extend([row_key(context, Limit::CodesPrefix, phone.prefix()), row_key(context, Limit::CodesAll, "")]);
    }
    take(context, tx, &keys, admission::admit_request).await
}

/// Takes from the buckets of `keys` what `admit` takes, and commits.
async fn take(
    context: &Context,
    mut tx: Transaction<Tables>,
    keys: &[(Limit, RowKey)],
    admit: fn(&mut Buckets<'_>) -> Result<Vec<Limit>, Refused>,
) -> Result<Taken, Problem> {
    let limits = context.platform.limiter.limits();
    let mut buckets = Buckets::full(limits, keys.iter().copied(), context.platform.world.now());
    rate_limit::rows::lock(&mut tx, &mut buckets).await?;
    let taken = match admit(&mut buckets) {
        Ok(taken) => taken,
        Err(refused) => {
            context.platform.limit_reached(refused.limit);
            return Err(refused.into());
        }
    };
    rate_limit::rows::store(&mut tx, &buckets).await?;
    tx.commit().await?;
    Ok(Taken(keys.iter().filter(|(limit, _)| taken.contains(limit)).copied().collect()))
}

/// Takes what a comparison costs, as if the code were wrong.
///
/// # Errors
/// `too_many_requests` names the limit that is used up.
pub(crate) async fn take_for_comparison(context: &Context, address: ClientAddress) -> Result<Taken, Problem> {
    let here = address_text(address);
    let keys = [
        row_key(context, Limit::WrongCodesAddress, &here),
        row_key(context, Limit::WrongCodesFirst, &here),
        row_key(context, Limit::WrongCodesAll, ""),
    ];
    let tx = context.store.begin().await?;
    take(context, tx, &keys, admission::admit_comparison).await
}

/// Puts back what was taken, but for these limits.
pub(crate) async fn put_back(
    context: &Context,
    tx: &mut Transaction<Tables>,
    taken: &Taken,
    except: &[Limit],
) -> Result<(), StoreError> {
    let keys = taken.0.iter().filter(|(limit, _)| !except.contains(limit)).copied();
    let limits = context.platform.limiter.limits();
    let mut buckets = Buckets::full(limits, keys.clone(), context.platform.world.now());
    rate_limit::rows::lock(tx, &mut buckets).await?;
    for (limit, _) in keys {
        buckets.put_back(limit);
    }
    rate_limit::rows::store(tx, &buckets).await
}

/// The phone of a right code, which does not work any more, in the transaction in which its owner is to be signed in.
///
/// # Errors
/// 401 if the code is not right, 429 if too many were not.
pub(crate) async fn verify(
    context: &Context,
    address: ClientAddress,
    request: &TokenRequest,
) -> Result<(Transaction<Tables>, Phone), Problem> {
    let count = |outcome: &str| context.platform.metrics.codes_presented.with_label_values(&[outcome]).inc();
    let phone = Phone::parse(&request.phone)?;
    let taken = take_for_comparison(context, address).await.inspect_err(|problem| {
        if problem.limit.is_some() {
            count("limited");
        }
    })?;

    let presented = Presented {
        hashes: otp::hashes(&context.tokens, &phone, &plain_text::code(&request.code)),
        // An id that is none belongs to no code.
        request_id: request.request_id.as_deref().map(|id| id.parse().unwrap_or_default()),
        asker: asker(context, address),
    };
    let now = context.platform.world.now();
    let mut tx = context.store.begin().await?;
    let codes = otp::rows::of_phone(&mut tx, &phone).await?;
    match otp::compare(&codes, &presented, now) {
        CodeMatch::Dead => {
            count("dead");
            Err(invalid_code())
        }
        CodeMatch::Wrong(tries) => {
            for (request_id, tries) in tries {
                otp::rows::set_tries(&mut tx, &phone, request_id, tries).await?;
            }
            tx.commit().await?;
            count("wrong");
            tracing::info!(calling_code = phone.calling_code(), "a wrong one-time code was presented");
            Err(invalid_code())
        }
        CodeMatch::Right => {
            otp::rows::delete_all(&mut tx, &phone).await?;
            put_back(context, &mut tx, &taken, &[]).await?;
            count("right");
            Ok((tx, phone))
        }
    }
}

/// One text for all cases: it must not reveal whether there is a code, or how many tries it has left.
fn invalid_code() -> Problem {
    let message = "the code is wrong, used or expired; after five wrong ones only a new code helps";
    Problem::new(StatusCode::UNAUTHORIZED, "invalid_code", message)
}
