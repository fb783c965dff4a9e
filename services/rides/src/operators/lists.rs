//! Lists of rides for operators. A page looks at a bounded number of rows, newest first, so that a filter that few rides pass costs no
//! more: the next page goes on where it ended.

use std::collections::BTreeMap;

use platform::operators::shown;
use platform::{Problem, Store};
use serde_json::Value;
use streams::operators::MapQuery;
use streams::operators::shown::{MapRows, OperatorsRidePage};
use streams::{RideId, UserId};

use super::{rows, view};
use crate::payment::Payment;
use crate::payment::rows::payments_of;
use crate::ride::Ride;
use crate::ride::rows::{After, rides_of};
use crate::tables::Tables;

/// Rides that a page looks at.
const WINDOW: u32 = 1_000;

/// Which rides.
pub(super) struct Filter<'a> {
    /// A status, or `live`.
    pub(super) status: Option<&'a str>,
    pub(super) user: Option<UserId>,
    pub(super) market: Option<&'a str>,
}

impl Filter<'_> {
    /// Whether only rides that have not ended pass.
    fn is_live(&self) -> bool {
        matches!(self.status, Some("live" | "pickup" | "waiting" | "started" | "arrived"))
    }

    fn passes(&self, ride: &Ride) -> bool {
        let status = match self.status {
            None => true,
            Some("live") => !ride.status.is_final(),
            Some(status) => ride.status.as_str() == status,
        };
        status
            && self.user.is_none_or(|user| ride.party(user).is_some())
            && self.market.is_none_or(|market| ride.market_id.as_deref() == Some(market))
    }

    /// What of the rides looked at is shown, and where the next page begins; `window` were to be looked at.
    fn page(&self, looked_at: Vec<Ride>, window: usize, limit: usize) -> (Vec<Ride>, Option<RideId>) {
        let last = looked_at.last().filter(|_| looked_at.len() >= window).map(|ride| ride.ride_id);
        let mut shown: Vec<Ride> = looked_at.into_iter().filter(|ride| self.passes(ride)).collect();
        if shown.len() > limit {
            shown.truncate(limit);
            let next = shown.last().map(|ride| ride.ride_id);
            return (shown, next);
        }
        (shown, last)
    }
}

pub(super) async fn page(
    store: &Store<Tables>,
    filter: &Filter<'_>,
    after: Option<RideId>,
    limit: u32,
) -> Result<Value, Problem> {
    let mut tx = store.begin().await?;
    let looked_at = match filter.user {
        Some(user) => {
            let begin = match after {
                None => Some(After::NEWEST),
                Some(after) => rows::ride(&mut tx, after)
                    .await?
                    .map(|ride| After { created_at: ride.created_at, ride_id: ride.ride_id }),
            };
            let begin =
                begin.ok_or_else(|| Problem::field("cursor", "must be the `next_cursor` of an earlier answer"))?;
            rides_of(&mut tx, user, begin, WINDOW).await?
        }
        None if filter.is_live() => rows::live(&mut tx, after, None, WINDOW).await?,
        None => rows::newest(&mut tx, after, WINDOW).await?,
    };
    let (found, next) = filter.page(looked_at, WINDOW as usize, limit as usize);
    let ids: Vec<RideId> = found.iter().map(|ride| ride.ride_id).collect();
    let payments = payments_of(&mut tx, &ids).await?;
    drop(tx);
    let payments: BTreeMap<RideId, Payment> = payments.into_iter().map(|p| (p.ride_id, p)).collect();
    let rides = found.iter().map(|ride| view::ride(ride, payments.get(&ride.ride_id))).collect();
    Ok(shown(&OperatorsRidePage { rides, next_cursor: next }))
}

/// Live rides with pickup or dropoff in the box, newest first.
pub(super) async fn live(store: &Store<Tables>, map: &MapQuery) -> Result<Value, Problem> {
    let mut tx = store.begin().await?;
    let mut found = rows::live(&mut tx, None, map.within.as_ref(), map.limit + 1).await?;
    drop(tx);
    let truncated = found.len() > map.limit as usize;
    found.truncate(map.limit as usize);
    Ok(shown(&MapRows { rows: found.iter().map(view::on_map).collect(), truncated }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ride::tests::{accepted, at};
    use uuid::Uuid;

    #[test]
    fn a_page_ends_with_what_it_looked_at() {
        let ride = |n: u128, market: &str| {
            let mut ride = Ride::create(&accepted(), RideId(Uuid::from_u128(n)), None, at(0)).ride;
            ride.market_id = Some(market.to_owned());
            ride
        };
        let rides = || vec![ride(9, "a"), ride(8, "b"), ride(7, "a"), ride(6, "b"), ride(5, "a")];
        let shown = |market, window, limit| {
            let filter = Filter { status: None, user: None, market };
            let (shown, next) = filter.page(rides(), window, limit);
            let ids: Vec<u128> = shown.iter().map(|ride| ride.ride_id.0.as_u128()).collect();
            (ids, next.map(|next| next.0.as_u128()))
        };
        assert_eq!(shown(None, 10, 10), (vec![9, 8, 7, 6, 5], None));
        assert_eq!(shown(None, 10, 2), (vec![9, 8], Some(8)));
        assert_eq!(shown(Some("a"), 10, 10), (vec![9, 7, 5], None));
        assert_eq!(shown(Some("c"), 5, 10), (vec![], Some(5)), "others may come later");
        assert_eq!(shown(Some("a"), 5, 2), (vec![9, 7], Some(7)));
        assert_eq!(shown(Some("a"), 5, 3), (vec![9, 7, 5], Some(5)));
    }
}
