//! The end of a search: by its passenger, by another trip of the passenger, by its time. An end that was acked, or announced by
//! `user.finder`, is final: no ride comes of the search, whatever was on its way.
//!
//! The end locks the search and then its offers, and closes them in the same transaction, so that no driver can accept one any
//! more. `match.rejected` (cancelled) for them is published from here, and never by match: match holds both parties until it
//! receives it. An offer that match makes after the end is closed in the same way when it arrives (`handlers.rs`).
//!
//! If a driver has accepted an offer already, the search may be a ride by now, which only rides knows. rides is asked first,
//! outside of any transaction, and decides for good: either no acceptance of this search becomes a ride any more, or it has become
//! one, and then it does not end. Meanwhile `superseded`, by which rides answers the acceptance, waits for [`ENDING_WAIT`]: both
//! parties receive `cancelled`, which says why.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use platform::store::rows::column;
use platform::{Problem, Retry, StoreError, Trace, Transaction};
use streams::ride_command::{EndSearch, RideReply, SEARCH_FULFILLED};
use streams::{Event, RequestId};

use super::{Search, rows};
use crate::commands::command::{CommandError, Refusal};
use crate::commands::ride;
use crate::context::Context;
use crate::offer::{self, OfferState};
use crate::tables::Tables;

/// How long the end of an accepted offer waits for the end of its search that is on its way.
pub(crate) const ENDING_WAIT: Duration = Duration::seconds(2);
/// How often one command asks rides. A second time is needed only if the search was replaced meanwhile.
const ASKED_MAX: usize = 3;

/// What one transaction comes to.
pub(crate) enum Step<R> {
    Done(R),
    /// A driver has accepted an offer of this search: rides must be asked before it can end.
    AskRides(Search),
}

/// Whether an end was possible.
pub(crate) enum End {
    /// At this time; not yet committed.
    At(DateTime<Utc>),
    /// An offer is accepted. Nothing was changed.
    Accepted,
}

/// Runs `step` in a transaction that it commits, and again after rides has agreed to the end of the search that it names. `step`
/// receives that search's id.
///
/// # Errors
/// [`Refusal`]: `ride_live` if the search has become a ride, `unavailable` if rides does not answer.
pub(crate) async fn with_rides<R, W>(
    context: &Context,
    mut step: impl FnMut(Transaction<Tables>, Option<RequestId>) -> W,
) -> Result<R, Refusal>
where
    W: Future<Output = Result<Step<R>, CommandError>>,
{
    let mut agreed = None;
    for _ in 0..=ASKED_MAX {
        // A conflict means that another command of the same user committed first. The retry sees its rows.
        let retry = Retry::SerializationOrConflict;
        let done = context.store.transact(retry, |tx| step(tx, agreed)).await.map_err(CommandError::into_refusal)?;
        match done {
            Step::Done(done) => return Ok(done),
            Step::AskRides(search) => {
                let mut tx = context.store.begin().await?;
                rows::set_ending(&mut tx, search.request_id, context.platform.world.now()).await?;
                tx.commit().await?;
                ask_rides(context, &search).await?;
                agreed = Some(search.request_id);
            }
        }
    }
    Err(Refusal::unavailable())
}

async fn ask_rides(context: &Context, search: &Search) -> Result<(), Refusal> {
    let Search { request_id, user_id, .. } = *search;
    let traceparent = context.new_trace().as_str().to_owned();
    let body = serde_json::to_vec(&EndSearch { user_id, request_id, traceparent }).expect("ids are JSON");
    let error = match ride::ask(context, body).await {
        Ok(RideReply::Ok(_)) => return Ok(()),
        Ok(RideReply::Error { code, .. }) if code == SEARCH_FULFILLED => return Err(has_become_a_ride().into()),
        // Also that of a rides process of the version before, which does not know this command.
        Ok(RideReply::Error { code, message, .. }) => format!("{code}: {message}"),
        Err(ride::Unanswered::Failed(error)) => error,
        Err(ride::Unanswered::NotAsked) => return Err(Refusal::unavailable()),
    };
    tracing::warn!(error, %request_id, "rides did not say whether a search has become a ride");
    Err(Refusal::unavailable())
}

/// The answer to a passenger who ends a search that is a ride.
pub(crate) fn has_become_a_ride() -> Problem {
    Problem::conflict("ride_live", "your search has become a ride: cancel the ride instead")
}

/// Ends `search`, whose row the caller has locked, and closes its offers, also an accepted one if rides has `agreed`.
pub(crate) async fn end(
    context: &Context,
    tx: &mut Transaction<Tables>,
    search: &Search,
    agreed: Option<RequestId>,
) -> Result<End, StoreError> {
    let ended = end_all(context, tx, &[(search.clone(), context.new_trace())], agreed).await?;
    Ok(ended.first().map_or(End::Accepted, |(_, at)| End::At(*at)))
}

/// Ends those of `searches` that can end: each in its own trace, or in the one with it if it has none. Returns which, and when.
pub(crate) async fn end_all(
    context: &Context,
    tx: &mut Transaction<Tables>,
    searches: &[(Search, Trace)],
    agreed: Option<RequestId>,
) -> Result<Vec<(RequestId, DateTime<Utc>)>, StoreError> {
    let requests: Vec<RequestId> = searches.iter().map(|(search, _)| search.request_id).collect();
    let mut offers = offer::rows::lock_live(tx, &requests).await?;
    let accepted: BTreeSet<RequestId> =
        offers.iter().filter(|offer| offer.state == OfferState::Accepted).map(|offer| offer.request_id).collect();
    let ends = |request: RequestId| agreed == Some(request) || !accepted.contains(&request);
    offers.retain(|offer| ends(offer.request_id));
    let ending: Vec<&Search> = searches.iter().map(|(search, _)| search).filter(|s| ends(s.request_id)).collect();
    if ending.is_empty() {
        return Ok(Vec::new());
    }
    let now = context.platform.world.now();
    let stored = tx.traces_of(&column(&ending, |search| search.request_id.0)).await?;
    let traces: BTreeMap<RequestId, Trace> = searches
        .iter()
        .map(|(search, trace)| {
            let id = search.request_id;
            let stored = stored.get(&id.0).filter(|stored| stored.trace_id() != trace.trace_id());
            (id, stored.unwrap_or(trace).clone())
        })
        .collect();
    let ends = column(&offers, |offer| offer.cancelled(now));
    offer::rows::close(tx, &ends).await?;
    rows::delete(tx, &column(&ending, |search| search.key())).await?;
    for end in ends {
        let trace = &traces[&end.request_id];
        tx.publish(&Event::MatchRejected(end), trace);
        context.platform.metrics.matches.with_label_values(&["cancelled"]).inc();
    }
    let mut ended = Vec::with_capacity(ending.len());
    for search in &ending {
        let event = search.ended(now);
        tx.publish(&event, &traces[&search.request_id]);
        ended.push((search.request_id, event.occurred_at().unwrap_or(now)));
    }
    Ok(ended)
}

/// How long after its time a search waits for the ride of an accepted offer, before rides is asked about it.
const ACCEPTED_GRACE: Duration = Duration::seconds(60);

/// Ends the searches that have expired. One with an accepted offer waits for its ride; if none comes, rides is asked.
///
/// # Errors
/// [`StoreError`]; the next call ends the others.
pub(crate) async fn expire(context: &Context) -> Result<(), StoreError> {
    loop {
        let mut tx = context.store.begin().await?;
        let expired = rows::lock_expired(&mut tx, context.platform.world.now()).await?;
        let expired: Vec<_> = expired.into_iter().map(|search| (search, context.new_trace())).collect();
        let ended = end_all(context, &mut tx, &expired, None).await?;
        if !ended.is_empty() {
            tx.commit().await?;
        }
        if ended.is_empty() || expired.len() < rows::EXPIRE_MAX {
            break;
        }
    }
    let mut tx = context.store.begin().await?;
    let overdue = rows::overdue(&mut tx, context.platform.world.now() - ACCEPTED_GRACE).await?;
    drop(tx);
    for search in overdue {
        let ended = with_rides(context, |tx, agreed| end_overdue(context, tx, &search, agreed)).await;
        if let Err(refusal) = ended {
            let code = refusal.code;
            tracing::debug!(%code, request_id = %search.request_id, "an expired search stays: a driver accepted its offer");
        }
    }
    Ok(())
}

async fn end_overdue(
    context: &Context,
    mut tx: Transaction<Tables>,
    search: &Search,
    agreed: Option<RequestId>,
) -> Result<Step<()>, CommandError> {
    let open = rows::lock_of_passenger(&mut tx, search.user_id).await?;
    let Some(open) = open.filter(|open| open.request_id == search.request_id) else { return Ok(Step::Done(())) };
    match end(context, &mut tx, &open, agreed).await? {
        End::Accepted => Ok(Step::AskRides(open)),
        End::At(_) => Ok(Step::Done(tx.commit().await?)),
    }
}
