//! The routes of a sign-in that exists: refresh, sign-out, the list. `http.rs` has those by which one begins.

use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use chrono::{DateTime, TimeDelta, Utc};
use platform::api::NoContent;
use platform::limits::Refused;
use platform::problem::Json;
use platform::routes::Routes;
use platform::token::ACCESS_TOKEN_S;
use platform::{Access, Limit, Problem, Transaction};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use streams::event::rfc3339;
use streams::{SignInId, UserId};

use super::refresh_token::{self, Presented};
use super::rows::{self, Ending};
use super::{Refresh, SIGN_INS_MAX, SignIn, device, ended, previous_version};
use crate::account::{self, Profile};
use crate::context::Context;
use crate::tables::Tables;

/// A repeat waits for this long, and is refused if the token comes again in the meantime.
const REPEAT_WAIT: Duration = Duration::from_millis(150);

pub(crate) fn routes() -> Routes<Context> {
    Routes::default()
        .post("/v1/auth/refresh", refresh)
        .described("New tokens for a refresh token, which works once.", &["invalid_token", "token_reused"])
        .post("/v1/auth/sign-out", sign_out)
        .described("End this sign-in, or all of the caller's.", &["no_sign_in"])
        .get("/v1/auth/sign-ins", sign_ins)
        .described("The caller's sign-ins.", &[])
        .delete("/v1/auth/sign-ins/{id}", end_sign_in)
        .described("End a sign-in of the caller.", &[])
}

/// The answer to a sign-in and to a refresh.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SignedInTokens")]
pub(crate) struct TokenResponse {
    access_token: String,
    #[schemars(extend("const" = "Bearer"))]
    token_type: &'static str,
    /// How long the access token is valid, seconds.
    expires_in_s: i64,
    /// Works once; a repeat within 30 s has the same answer.
    refresh_token: String,
    user: Profile,
}

impl TokenResponse {
    fn new(context: &Context, sign_in: &SignIn, user: Profile) -> Json<Self> {
        let now = context.platform.world.now();
        let expires_at = sign_in.access_until(TimeDelta::seconds(ACCESS_TOKEN_S), now);
        let (tokens, token_type) = (&context.tokens, "Bearer");
        Json(Self {
            access_token: tokens.access_of(sign_in.user, sign_in.id, expires_at),
            token_type,
            expires_in_s: (expires_at - now).num_seconds(),
            refresh_token: refresh_token::newest(sign_in, tokens),
            user,
        })
    }
}

fn count(context: &Context, outcome: &'static str) {
    context.platform.metrics.sign_ins.with_label_values(&[outcome]).inc();
}

/// What the client calls itself.
fn user_agent(headers: &HeaderMap) -> Option<String> {
    headers.get(header::USER_AGENT).and_then(|value| device(&String::from_utf8_lossy(value.as_bytes())))
}

/// Begins a sign-in of `user` in this transaction, and commits it. A user has a bounded number of them: the one that was not seen
/// for longest makes room.
pub(crate) async fn begin(
    context: &Context,
    mut tx: Transaction<Tables>,
    user: UserId,
    headers: &HeaderMap,
) -> Result<Json<TokenResponse>, Problem> {
    let world = &context.platform.world;
    let now = world.now();
    let life = context.config.sign_in_life;
    let sign_in = SignIn::new(world.id(), user, user_agent(headers), world.bytes::<16>().to_vec(), life, now);
    let live = rows::live_of(&mut tx, user, now).await?;
    let mut displaced = Vec::new();
    if live.len() >= SIGN_INS_MAX
        && let Some(oldest) = live.last()
    {
        displaced = rows::end(&mut tx, user, Ending::One(oldest.id), now).await?;
    }
    rows::put(&mut tx, &sign_in).await?;
    let profile = account::rows::profile_of(&mut tx, user).await?.ok_or_else(invalid_refresh_token)?;
    tx.commit().await?;
    ended::announce(context, &displaced, "another began, and the user has as many as possible").await;
    tracing::info!(user_id = %user, sign_in_id = %sign_in.id, "a sign-in has begun");
    count(context, "started");
    Ok(TokenResponse::new(context, &sign_in, profile))
}

#[derive(Deserialize, JsonSchema)]
struct RefreshRequest {
    refresh_token: String,
}

async fn refresh(
    State(context): State<Context>,
    headers: HeaderMap,
    Json(request): Json<RefreshRequest>,
) -> Result<Json<TokenResponse>, Problem> {
    let now = context.platform.world.now();
    let mut tx = context.store.begin().await?;
    let Some((mut sign_in, number)) = presented(&context, &mut tx, &request.refresh_token).await? else {
        return Err(refused(&context));
    };
    let was_over = sign_in.is_over(now);
    let outcome = sign_in.refresh(number, user_agent(&headers), now);
    match outcome {
        Refresh::Invalid => return Err(refused(&context)),
        Refresh::Reused => {
            let ended = rows::end(&mut tx, sign_in.user, Ending::One(sign_in.id), now).await?;
            tx.commit().await?;
            if !was_over {
                let (user_id, sign_in_id) = (sign_in.user, sign_in.id);
                tracing::warn!(%user_id, %sign_in_id, "a refresh token was used twice: its sign-in has ended");
            }
            ended::announce(&context, &ended, "a refresh token was used twice").await;
            count(&context, "reused");
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "token_reused", "used before: sign in again"));
        }
        Refresh::Rotated | Refresh::Repeated => {}
    }
    context.platform.take(Limit::Refresh, sign_in.id.0, 1)?;
    rows::put(&mut tx, &sign_in).await?;
    if outcome == Refresh::Rotated && Presented::parse(&request.refresh_token).is_none() {
        previous_version::set_used(&mut tx, &context.tokens, &request.refresh_token, now).await?;
    }
    let profile = account::rows::profile_of(&mut tx, sign_in.user).await?.ok_or_else(invalid_refresh_token)?;
    tx.commit().await?;
    if outcome == Refresh::Repeated {
        sign_in = not_in_a_burst(&context, sign_in).await?;
    }
    count(&context, if outcome == Refresh::Repeated { "repeated" } else { "refreshed" });
    tracing::debug!(user_id = %sign_in.user, sign_in_id = %sign_in.id, ?outcome, "a sign-in was refreshed");
    Ok(TokenResponse::new(&context, &sign_in, profile))
}

/// The locked sign-in of a refresh token that the platform made, and the token's number.
async fn presented(
    context: &Context,
    tx: &mut Transaction<Tables>,
    text: &str,
) -> Result<Option<(SignIn, i64)>, Problem> {
    let (world, tokens) = (&context.platform.world, &context.tokens);
    let Some(presented) = Presented::parse(text) else {
        let (salt, life) = (world.bytes::<16>().to_vec(), context.config.sign_in_life);
        return Ok(previous_version::presented(tx, tokens, text, salt, life, world.now()).await?);
    };
    let sign_in = rows::lock(tx, presented.sign_in).await?.filter(|sign_in| presented.is_of(sign_in, tokens));
    Ok(sign_in.map(|sign_in| (sign_in, presented.number)))
}

/// The sign-in as it is a moment after a repeat.
///
/// A client whose answer was lost repeats its request once, and later perhaps once more. Thieves who race for the successor of
/// one token present it at the same time: all but the first are refused. Nobody is signed out by it, because two tabs of one
/// browser may do the same.
async fn not_in_a_burst(context: &Context, mut sign_in: SignIn) -> Result<SignIn, Problem> {
    if !sign_in.is_burst() {
        tokio::time::sleep(REPEAT_WAIT).await;
        let mut tx = context.store.begin().await?;
        // Should the client have used the successor in the meantime, that one's successor is not for this request.
        let number = sign_in.number;
        let is_same = |now: &SignIn| now.number == number && now.ended_at.is_none();
        sign_in = rows::lock(&mut tx, sign_in.id).await?.filter(is_same).ok_or_else(invalid_refresh_token)?;
    }
    if sign_in.is_burst() {
        context.platform.limit_reached(Limit::Refresh);
        return Err(Refused { limit: Limit::Refresh, retry_after_s: 1 }.into());
    }
    Ok(sign_in)
}

fn refused(context: &Context) -> Problem {
    count(context, "refused");
    tracing::info!("a refresh token was refused: it is not valid");
    invalid_refresh_token()
}

fn invalid_refresh_token() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "invalid_token", "the refresh token is not valid: sign in again")
}

#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "SignOutRequest")]
struct SignOut {
    /// True: all sign-ins of the caller end.
    #[serde(default)]
    everywhere: bool,
}

async fn sign_out(
    State(context): State<Context>,
    access: Access,
    request: Option<Json<SignOut>>,
) -> Result<NoContent, Problem> {
    let everywhere = request.is_some_and(|Json(request)| request.everywhere);
    let ending = match access.sign_in {
        _ if everywhere => Ending::All,
        Some(sign_in) => Ending::One(sign_in),
        None => {
            let message = "this access token names no sign-in: refresh it first, or sign out everywhere";
            return Err(Problem::conflict("no_sign_in", message));
        }
    };
    end(&context, access.user, ending, if everywhere { "signed out everywhere" } else { "signed out" }).await?;
    Ok(NoContent)
}

async fn end(context: &Context, user: UserId, ending: Ending, cause: &'static str) -> Result<(), Problem> {
    let mut tx = context.store.begin().await?;
    let ended = rows::end(&mut tx, user, ending, context.platform.world.now()).await?;
    tx.commit().await?;
    ended::announce(context, &ended, cause).await;
    Ok(())
}

#[derive(Serialize, JsonSchema)]
struct SignInList {
    /// The one that was seen last first.
    sign_ins: Vec<SignInView>,
}

/// A sign-in as its user sees it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SignIn")]
struct SignInView {
    id: SignInId,
    /// What the client called itself.
    device: Option<String>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    created_at: DateTime<Utc>,
    /// When it last got new tokens.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    seen_at: DateTime<Utc>,
    /// Whether the caller uses it.
    current: bool,
}

async fn sign_ins(State(context): State<Context>, access: Access) -> Result<Json<SignInList>, Problem> {
    let mut tx = context.store.begin().await?;
    let live = rows::live_of(&mut tx, access.user, context.platform.world.now()).await?;
    let view = |sign_in: SignIn| SignInView {
        id: sign_in.id,
        device: sign_in.device,
        created_at: sign_in.created_at,
        seen_at: sign_in.seen_at,
        current: access.sign_in == Some(sign_in.id),
    };
    Ok(Json(SignInList { sign_ins: live.into_iter().map(view).collect() }))
}

/// 204, also for a repeat. Another user's sign-in is not found, like one that does not exist.
async fn end_sign_in(
    State(context): State<Context>,
    access: Access,
    id: Result<Path<SignInId>, PathRejection>,
) -> Result<NoContent, Problem> {
    let not_found = || Problem::not_found("sign-in");
    let Path(id) = id.map_err(|_| not_found())?;
    let mut tx = context.store.begin().await?;
    if !rows::is_of(&mut tx, id, access.user).await? {
        return Err(not_found());
    }
    drop(tx);
    end(&context, access.user, Ending::One(id), "ended from another device").await?;
    Ok(NoContent)
}
