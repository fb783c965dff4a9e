//! `finder.update`: a passenger begins or ends a search.

use chrono::Duration;
use platform::{Problem, Transaction};
use streams::{RequestId, UserId};

use super::ack::SearchAck;
use super::command::{CommandError, Refusal};
use crate::context::Context;
use crate::search::ending::{self, End, Step};
use crate::search::{self, Search};
use crate::tables::Tables;
use crate::trip::Trip;
use crate::{account, live_ride};

/// Begins a search; one with the same trip that is open already is the result of a repeat, also if the pickup was moved by a few metres. Another trip ends the open
/// search first.
pub(crate) async fn begin(context: &Context, user: UserId, trip: Trip) -> Result<SearchAck, Refusal> {
    ending::with_rides(context, |tx, agreed| begin_in(context, tx, user, trip, agreed)).await
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
    let markets = context.config.markets.get();
    let market = markets.serving(&trip.pickup, &trip.dropoff, trip.vehicle_type);
    let market =
        market.map_err(|why| Problem { code: why.code().into(), ..Problem::field(why.field(), why.to_string()) })?;
    if live_ride::rows::of_passenger(&mut tx, user).await?.is_some() {
        let message = "you are in a ride: another can be asked for when it is over";
        return Err(Problem::conflict("ride_live", message).into());
    }
    let mut now = context.platform.world.now();
    if let Some(open) = open {
        match ending::end(context, &mut tx, &open, agreed).await? {
            End::Accepted => return Ok(Step::AskRides(open)),
            // A reader that sorts by time must see the end of the old search before the beginning of the new one.
            End::At(ended_at) => now = ended_at + Duration::microseconds(1),
        }
    }
    let search = Search {
        request_id: context.platform.world.id(),
        user_id: user,
        trip,
        began_at: now,
        expires_at: now + context.config.request_ttl(Some(market)),
        market_id: Some(market.market_id.clone()),
    };
    search::rows::insert(&mut tx, &search).await?;
    context.publish(&mut tx, &search.began());
    tx.commit().await?;
    Ok(Step::Done(SearchAck { request_id: Some(search.request_id) }))
}

/// Ends the open search, if there is one. A search that has become a ride cannot end: that is for `ride.cancel`.
pub(crate) async fn end(context: &Context, user: UserId) -> Result<SearchAck, Refusal> {
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
