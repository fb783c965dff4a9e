//! What operators read of `rides`: by no owner. PostgreSQL and memory side by side.

use platform::{On, StoreError, Transaction};
use streams::operators::MapBox;
use streams::{RequestId, RideId};
use uuid::Uuid;

use crate::ride::Ride;
use crate::ride::rows::from_row;
use crate::tables::Tables;

pub(super) async fn ride(tx: &mut Transaction<Tables>, id: RideId) -> Result<Option<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select row_to_json(rides)::text from rides where ride_id = $1").bind(id.0);
            row.fetch_optional(&mut *pg).await?.map(|row| from_row(&row)).transpose()
        }
        On::Memory(tables) => Ok(tables.rides.get(&id).cloned()),
    }
}

/// The ride of which this is the id, the match, or the request.
pub(super) async fn find(tx: &mut Transaction<Tables>, id: Uuid) -> Result<Vec<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select row_to_json(rides)::text from rides where ride_id = $1 or match_id = $1 \
                 or match_id = (select match_id from served where request_id = $1) order by ride_id limit 3",
            );
            rows.bind(id).fetch_all(&mut *pg).await?.iter().map(from_row).collect()
        }
        On::Memory(tables) => {
            let of_request = tables.decided_requests.get(&RequestId(id)).copied().flatten();
            let is_it =
                |ride: &&Ride| ride.ride_id.0 == id || ride.match_id.0 == id || Some(ride.match_id) == of_request;
            Ok(tables.rides.values().filter(is_it).cloned().collect())
        }
    }
}

fn before(after: Option<RideId>) -> Uuid {
    after.map_or(Uuid::max(), |after| after.0)
}

/// At most `limit` rides after `after`, newest first: ids are made in the order of time.
pub(super) async fn newest(
    tx: &mut Transaction<Tables>,
    after: Option<RideId>,
    limit: u32,
) -> Result<Vec<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select row_to_json(rides)::text from rides where ride_id < $1 order by ride_id desc limit $2",
            )
            .bind(before(after))
            .bind(i64::from(limit))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(from_row).collect()
        }
        On::Memory(tables) => {
            let rides = tables.rides.range(..RideId(before(after))).rev();
            Ok(rides.take(limit as usize).map(|(_, ride)| ride.clone()).collect())
        }
    }
}

/// At most `limit` rides that have not ended, newest first, with pickup or dropoff in the box.
pub(super) async fn live(
    tx: &mut Transaction<Tables>,
    after: Option<RideId>,
    within: Option<&MapBox>,
    limit: u32,
) -> Result<Vec<Ride>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            // Of the live rides by their own index, not of all rides by their ids.
            let rows = sqlx::query(
                "with live as materialized (select ride_id from rides where status not in ('completed', 'cancelled')) \
                 select row_to_json(rides)::text from live join rides using (ride_id) where ride_id < $1 and ($2::float8 is null \
                 or (pickup_lat between $2 and $4 and case when $3 <= $5 then pickup_lng between $3 and $5 \
                 else pickup_lng >= $3 or pickup_lng <= $5 end) \
                 or (dropoff_lat between $2 and $4 and case when $3 <= $5 then dropoff_lng between $3 and $5 \
                 else dropoff_lng >= $3 or dropoff_lng <= $5 end)) order by ride_id desc limit $6",
            )
            .bind(before(after))
            .bind(within.map(|within| within.south))
            .bind(within.map(|within| within.west))
            .bind(within.map(|within| within.north))
            .bind(within.map(|within| within.east))
            .bind(i64::from(limit))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(from_row).collect()
        }
        On::Memory(tables) => {
            let is_within = |ride: &Ride| {
                within.is_none_or(|within| within.contains(&ride.pickup) || within.contains(&ride.dropoff))
            };
            let ids: Vec<RideId> = tables.live_driver.values().copied().collect();
            let mut live: Vec<Ride> = ids.iter().filter_map(|id| tables.rides.get(id)).cloned().collect();
            live.retain(|ride| ride.ride_id.0 < before(after) && is_within(ride));
            live.sort_by_key(|ride| std::cmp::Reverse(ride.ride_id));
            live.truncate(limit as usize);
            Ok(live)
        }
    }
}
