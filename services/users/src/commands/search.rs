//! `finder.update`: a passenger begins or ends a search.
//!
//! What is plain is done together with what others want at the same time: a search of a passenger who has none begins, and one whose offers
//! nobody has accepted ends. Everything else is done alone, and so is what would wait for a row that another transaction has locked: nobody
//! waits for another passenger's rows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use platform::{CancellationToken, Problem, StoreError, Trace, Transaction};
use streams::{RequestId, UserId};
use tokio::time::timeout;

use super::ack::SearchAck;
use super::command::{CommandError, Refusal};
use super::joint_search::Wish;
use crate::context::Context;
use crate::search::ending::{self, End, Step};
use crate::search::{self, Search};
use crate::tables::Tables;
use crate::trip::Trip;
use crate::{account, live_ride};

/// Commands of one transaction.
const BATCH_MAX: usize = 256;
/// The longest time for one transaction of several. Then each of its commands is done alone.
const TOGETHER_WAIT: Duration = Duration::from_secs(1);

/// Begins a search; one with the same trip that is open already is the result of a repeat, also if the pickup was moved by a few metres. Another trip ends the open
/// search first.
pub(crate) async fn begin(context: &Context, user: UserId, trip: Trip) -> Result<SearchAck, Refusal> {
    if let Some(done) = done_together(context, user, Some(trip)).await {
        return Ok(done);
    }
    ending::with_rides(context, |tx, agreed| begin_in(context, tx, user, trip, agreed)).await
}

async fn done_together(context: &Context, user: UserId, trip: Option<Trip>) -> Option<SearchAck> {
    context.joint_searches.done(Wish { user, trip, trace: context.new_trace() }).await
}

/// A search for `trip` that begins now, if the trip is served.
fn begun(context: &Context, user: UserId, trip: Trip) -> Result<Search, Problem> {
    let (now, markets) = (context.platform.world.now(), context.config.markets.get());
    let market = markets.serving(&trip.pickup, &trip.dropoff, trip.vehicle_type);
    let market =
        market.map_err(|why| Problem { code: why.code().into(), ..Problem::field(why.field(), why.to_string()) })?;
    Ok(Search {
        request_id: context.platform.world.id(),
        user_id: user,
        trip,
        began_at: now,
        expires_at: now + context.config.request_ttl(Some(market)),
        market_id: Some(market.market_id.clone()),
    })
}

async fn begin_in(
    context: &Context,
    mut tx: Transaction<Tables>,
    user: UserId,
    trip: Trip,
    agreed: Option<RequestId>,
) -> Result<Step<SearchAck>, CommandError> {
    // Whose account ends at the same moment has no search, or ends it first.
    if !account::rows::lock(&mut tx, user).await? {
        return Err(Problem::unauthorized("there is no such user any more: sign in again").into());
    }
    let open = search::rows::lock_of_passenger(&mut tx, user).await?;
    if let Some(open) = open.as_ref().filter(|open| open.is_of(&trip)) {
        return Ok(Step::Done(SearchAck { request_id: Some(open.request_id) }));
    }
    let mut search = begun(context, user, trip)?;
    if live_ride::rows::of_passenger(&mut tx, user).await?.is_some() {
        let message = "you are in a ride: another can be asked for when it is over";
        return Err(Problem::conflict("ride_live", message).into());
    }
    if let Some(open) = open {
        match ending::end(context, &mut tx, &open, agreed).await? {
            End::Accepted => return Ok(Step::AskRides(open)),
            // A reader that sorts by time must see the end of the old search before the beginning of the new one.
            End::At(ended_at) => search = search.begun_after(ended_at),
        }
    }
    search::rows::insert(&mut tx, &search).await?;
    context.publish(&mut tx, &search.began());
    tx.commit().await?;
    Ok(Step::Done(SearchAck { request_id: Some(search.request_id) }))
}

/// Ends the open search, if there is one. A search that has become a ride cannot end: that is for `ride.cancel`.
pub(crate) async fn end(context: &Context, user: UserId) -> Result<SearchAck, Refusal> {
    if let Some(done) = done_together(context, user, None).await {
        return Ok(done);
    }
    ending::with_rides(context, |tx, agreed| end_in(context, tx, user, agreed)).await
}

async fn end_in(
    context: &Context,
    mut tx: Transaction<Tables>,
    user: UserId,
    agreed: Option<RequestId>,
) -> Result<Step<SearchAck>, CommandError> {
    let Some(open) = search::rows::lock_of_passenger(&mut tx, user).await? else {
        return match live_ride::rows::of_passenger(&mut tx, user).await? {
            Some(_) => Err(ending::has_become_a_ride().into()),
            None => Ok(Step::Done(SearchAck { request_id: None })),
        };
    };
    match ending::end(context, &mut tx, &open, agreed).await? {
        End::Accepted => Ok(Step::AskRides(open)),
        End::At(_) => {
            tx.commit().await?;
            Ok(Step::Done(SearchAck { request_id: Some(open.request_id) }))
        }
    }
}

/// Stores what waits in [`super::joint_search`], until `stop` is cancelled.
pub(crate) async fn run(context: Context, stop: CancellationToken) {
    // In memory there are no round trips to save.
    let is_remote = context.store.is_remote();
    let Some(mut from) = is_remote.then(|| context.joint_searches.serve()).flatten() else {
        return stop.cancelled().await;
    };
    let mut waiting = Vec::with_capacity(BATCH_MAX);
    loop {
        let count = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            count = from.recv_many(&mut waiting, BATCH_MAX) => count,
        };
        if count == 0 {
            break;
        }
        let wishes: Vec<Wish> = waiting.iter().map(|waiting| waiting.wish.clone()).collect();
        let mut done = match timeout(TOGETHER_WAIT, store_together(&context, &wishes)).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => {
                tracing::debug!(%error, count, "searches are stored one by one");
                BTreeMap::new()
            }
            Err(_) => {
                tracing::debug!(count, "searches are stored one by one: together they took too long");
                BTreeMap::new()
            }
        };
        for (index, waiting) in waiting.drain(..).enumerate() {
            if let Some(ack) = done.remove(&index) {
                // Nobody waits any more if the socket has closed.
                let _ = waiting.to.send(ack);
            }
        }
    }
}

/// The acks of those wishes that are done, by their index.
async fn store_together(context: &Context, wishes: &[Wish]) -> Result<BTreeMap<usize, SearchAck>, StoreError> {
    // Of one passenger the first one; the others come after it, alone.
    let mut users = BTreeSet::new();
    let first: Vec<(usize, &Wish)> = wishes.iter().enumerate().filter(|(_, wish)| users.insert(wish.user)).collect();
    let users: Vec<UserId> = users.into_iter().collect();
    let begin: Vec<UserId> = first.iter().filter(|(_, wish)| wish.trip.is_some()).map(|(_, wish)| wish.user).collect();

    let mut tx = context.store.begin().await?;
    let locked = account::rows::lock_free(&mut tx, &begin).await?;
    let open = search::rows::lock_free(&mut tx, &users).await?;
    let in_ride = live_ride::rows::passengers_of_any(&mut tx, &begin).await?;
    let (mut new, mut ending) = (BTreeMap::<RequestId, (usize, Search, &Trace)>::new(), Vec::new());
    let (mut index_of, mut done) = (BTreeMap::new(), BTreeMap::new());
    for (index, Wish { user, trip, trace }) in first {
        match (trip, open.get(user)) {
            (Some(trip), Some(open)) if locked.contains(user) && open.is_of(trip) => {
                done.insert(index, SearchAck { request_id: Some(open.request_id) });
            }
            (Some(trip), None) if locked.contains(user) && !in_ride.contains(user) => {
                if let Ok(search) = begun(context, *user, *trip) {
                    new.insert(search.request_id, (index, search, trace));
                }
            }
            (None, Some(open)) => {
                index_of.insert(open.request_id, index);
                ending.push((open.clone(), trace.clone()));
            }
            // Another trip, a ride, a refusal, or a row that is locked.
            _ => {}
        }
    }
    let searches: Vec<Search> = new.values().map(|(_, search, _)| search.clone()).collect();
    let inserted = search::rows::insert_all(&mut tx, &searches).await?;
    for id in &inserted {
        if let Some((index, search, trace)) = new.get(id) {
            tx.publish(&search.began(), trace);
            done.insert(*index, SearchAck { request_id: Some(*id) });
        }
    }
    let ended = ending::end_all(context, &mut tx, &ending, None).await?;
    for (id, _) in &ended {
        done.insert(index_of[id], SearchAck { request_id: Some(*id) });
    }
    if !inserted.is_empty() || !ended.is_empty() {
        tx.commit().await?;
    }
    Ok(done)
}
