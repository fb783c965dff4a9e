//! GET /v1/me/missed-offers: why others were offered the searches around a driver, as match says from its record. Without names; a
//! passenger has none.

use axum::extract::State;
use chrono::{DateTime, Duration, DurationRound, Utc};
use platform::problem::{Json, Query};
use platform::{Limit, Problem, SignedIn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use streams::event::rfc3339;
use streams::missed_offers::{MISSED_OFFERS, MISSED_OFFERS_WAIT, MissedOffer, MissedOffersReply, MissedOffersRequest};

use crate::account::{self, DriverStatus};
use crate::commands::command::Refusal;
use crate::context::Context;

/// Without `since`.
const SINCE_DEFAULT: Duration = Duration::minutes(15);
/// A driver sees no farther back: match runs all of it again.
const SINCE_MAX: Duration = Duration::hours(1);
/// Times are cut to this, as match cuts them.
const CUT_TO: Duration = Duration::minutes(1);

/// Parsed from text here and not by serde, so that an error can name the field.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct MissedQuery {
    /// 15 minutes ago without it; at most an hour ago.
    #[schemars(with = "Option<DateTime<Utc>>")]
    since: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MissedOffers")]
pub(crate) struct MissedResponse {
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    since: DateTime<Utc>,
    /// Since when none is missing; null if match cannot say what came last.
    #[serde(with = "rfc3339::optional")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    complete_since: Option<DateTime<Utc>>,
    /// The newest first.
    searches: Vec<MissedOffer>,
    /// So many older ones are left out.
    more: usize,
}

/// An earlier `since` than an hour ago counts as an hour ago; the answer says since when it is.
pub(crate) async fn get(
    State(context): State<Context>,
    SignedIn(user): SignedIn,
    Query(query): Query<MissedQuery>,
) -> Result<Json<MissedResponse>, Problem> {
    let now = context.platform.world.now();
    let since = match query.since.as_deref().map(DateTime::parse_from_rfc3339) {
        None => now - SINCE_DEFAULT,
        Some(Ok(since)) => since.to_utc().max(now - SINCE_MAX),
        Some(Err(_)) => return Err(Problem::field("since", "must be a time as 2026-11-21T08:00:00Z")),
    };
    let since = since.duration_trunc(CUT_TO).unwrap_or(since);
    let mut tx = context.store.begin().await?;
    let driver = account::rows::driver_of(&mut tx, user).await?.ok_or_else(|| Refusal::not_driver().into_problem())?;
    drop(tx);
    if driver.status != DriverStatus::Approved {
        return Err(Refusal::not_approved(driver.status).into_problem());
    }
    context.platform.take(Limit::MissedOffers, user, 1)?;
    let _permit = context.missed_permits.try_acquire().map_err(|_| Problem::unavailable())?;
    let request = serde_json::to_vec(&MissedOffersRequest { user_id: user, since }).expect("ids and times are JSON");
    let reply = context.platform.bus.request(MISSED_OFFERS, request.into(), MISSED_OFFERS_WAIT).await;
    match reply.map_err(|e| e.to_string()).and_then(|reply| serde_json::from_slice(&reply).map_err(|e| e.to_string())) {
        Ok(MissedOffersReply::Missed { searches, more, complete_since }) => {
            Ok(Json(MissedResponse { since, complete_since, searches, more }))
        }
        Ok(MissedOffersReply::Busy | MissedOffersReply::Unavailable) => Err(Problem::unavailable()),
        Err(error) => {
            tracing::debug!(error, "match did not say which offers a driver missed");
            Err(Problem::unavailable())
        }
    }
}
