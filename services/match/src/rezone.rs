//! Rows get the zones of another division of the map. It is done in the transaction that takes the first lease of the new division, while
//! nobody matches.
//!
//! Requests, offers and rides stay together, in a zone that there is: where a request's pickup belongs is looked at by its new owner,
//! who hands it over (`engine/rules.rs`). Drivers get the zones around their beacons.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use imbl::OrdMap;
use platform::store::rows::column;
use platform::{On, StoreError};
use sqlx::Row;
use streams::{Position, UserId};
use uuid::Uuid;

use crate::inputs;
use crate::tables::Tx;
use crate::zone_input::ZoneInput;
use crate::zones::{Partition, ZoneSet};

pub(crate) async fn to(tx: &mut Tx, partition: Partition, radius_m: f64, now: DateTime<Utc>) -> Result<(), StoreError> {
    fold(tx, partition, now).await?;
    let passengers = passengers(tx).await?;
    // A passenger who has a zone keeps it, because what waits for the passenger is in that zone. With one zone no passenger has a row yet.
    inputs::join(tx, &passengers, now).await?;
    if !partition.is_one() {
        let drivers = drivers(tx).await?;
        let zones = drivers.into_iter().map(|(id, at)| (id, partition.zones_near(&at, radius_m))).collect();
        put_drivers(tx, zones).await?;
    }
    tracing::info!(zones = partition.zones(), cell_m = partition.cell_m(), "match: another division of the map");
    Ok(())
}

/// Puts what is in a zone that there is no more into one that there is.
async fn fold(tx: &mut Tx, partition: Partition, now: DateTime<Utc>) -> Result<(), StoreError> {
    let zones = partition.zones();
    match tx.on() {
        On::Postgres(pg) => {
            for table in ["requests", "offers", "zone_inputs", "passengers"] {
                // The name is one of these four.
                let statement = format!("update {table} set zone = zone % $1 where zone >= $1");
                sqlx::query(sqlx::AssertSqlSafe(statement)).bind(i32::from(zones)).execute(&mut *pg).await?;
            }
            // Of eight days; those that ended long ago are loaded by no engine, and whoever reads their zones does the same.
            sqlx::query("update rides set zone = zone % $1 where zone >= $1 and (ended_at is null or ended_at >= $2)")
                .bind(i32::from(zones))
                .bind(now - Duration::days(1))
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            fn fold<K: Ord + Clone>(map: &mut OrdMap<K, u16>, zones: u16) {
                *map = map.iter().map(|(id, zone)| (id.clone(), zone % zones)).collect();
            }
            fold(&mut tables.zone_of_request, zones);
            fold(&mut tables.zone_of_offer, zones);
            fold(&mut tables.zone_of_ride, zones);
            let inputs = tables.zone_inputs.iter().map(|((zone, id), input)| {
                let zone = zone % zones;
                ((zone, *id), ZoneInput { zone, ..input.clone() })
            });
            tables.zone_inputs = inputs.collect();
            let passengers = tables.zone_of_passenger.iter();
            tables.zone_of_passenger = passengers.map(|(id, (zone, at))| (*id, (zone % zones, *at))).collect();
            let given_up = tables.given_up_inputs.iter().map(|(id, (input, why))| {
                (*id, (ZoneInput { zone: input.zone % zones, ..input.clone() }, why.clone()))
            });
            tables.given_up_inputs = given_up.collect();
        }
    }
    Ok(())
}

/// The passengers who have something live, with its zone. The last counts: that of the request, if there is one.
async fn passengers(tx: &mut Tx) -> Result<BTreeMap<UserId, u16>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select passenger_id, zone, 1 as n from rides where ended_at is null \
                 union all select passenger_id, zone, 2 from offers where ended_at is null \
                 union all select passenger_id, zone, 3 from requests where ended_at is null order by n",
            )
            .fetch_all(pg)
            .await?;
            rows.iter().map(inputs::passenger_and_zone).collect()
        }
        On::Memory(tables) => {
            let requests = tables.requests.values().filter(|r| r.ended_at.is_none());
            let requests = requests.map(|r| (r.passenger_id, tables.zone_of_request.get(&r.request_id)));
            let offers = tables.offers.values().filter(|o| o.ended.is_none());
            let offers = offers.map(|o| (o.passenger_id, tables.zone_of_offer.get(&o.match_id)));
            let rides = tables.rides.values().filter(|r| r.ended_at.is_none());
            let rides = rides.map(|r| (r.passenger_id, tables.zone_of_ride.get(&r.ride_id)));
            Ok(rides.chain(offers).chain(requests).map(|(id, zone)| (id, zone.copied().unwrap_or(0))).collect())
        }
    }
}

async fn drivers(tx: &mut Tx) -> Result<Vec<(UserId, Position)>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select user_id, lat, lng from drivers order by user_id").fetch_all(pg).await?;
            let read = |row: &sqlx::postgres::PgRow| {
                let at = Position { lat: row.try_get("lat")?, lng: row.try_get("lng")? };
                Ok((UserId(row.try_get::<Uuid, _>("user_id")?), at))
            };
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => Ok(tables.drivers.values().map(|driver| (driver.user_id, driver.location)).collect()),
    }
}

async fn put_drivers(tx: &mut Tx, zones: BTreeMap<UserId, ZoneSet>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "update drivers set zones = u.zones from unnest($1::uuid[], $2::bigint[]) as u (id, zones) where user_id = u.id",
            )
            .bind(column(&zones, |(id, _)| id.0))
            .bind(column(&zones, |(_, zones)| zones.0.cast_signed()))
            .execute(pg)
            .await?;
        }
        On::Memory(tables) => tables.zones_of_driver.extend(zones),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use platform::{Store, Trace, World};
    use streams::event::UserFinder;
    use streams::{Event, RequestId, VehicleType};
    use testing::{Backend, on_both_stores};

    use super::*;
    use crate::MIGRATIONS;
    use crate::tables::Tables;
    use crate::zone_input::Content;

    on_both_stores!(what_waits_is_handled_in_order_whatever_zones_become_one);

    fn finder(n: u16, zone: u16) -> ZoneInput {
        let event = UserFinder {
            request_id: RequestId(Uuid::from_u128(n.into())),
            user_id: UserId(Uuid::from_u128((n % 2).into())),
            active: true,
            pickup: Position { lat: 40.0, lng: f64::from(n) },
            dropoff: Position { lat: 41.0, lng: 0.0 },
            vehicle_type: VehicleType::Car,
            recorded_at: DateTime::UNIX_EPOCH,
            continues: None,
            market_id: None,
            expires_at: None,
        };
        let content = Content::Event { event: Box::new(Event::UserFinder(event)), elsewhere: false };
        ZoneInput::between_zones(zone, content, DateTime::UNIX_EPOCH, trace())
    }

    fn trace() -> Trace {
        Trace::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap()
    }

    async fn what_waits_is_handled_in_order_whatever_zones_become_one(backend: Backend) {
        let now = DateTime::UNIX_EPOCH;
        let store: Store<Tables> = backend.store(&World::real(), "test", "matching", &MIGRATIONS).await;
        let mut tx = store.begin().await.unwrap();
        let zones = [4, 0, 1, 2, 3, 2, 0, 4];
        for (n, zone) in (0..).zip(zones) {
            inputs::insert(&mut tx, &[finder(n, zone)]).await.unwrap();
        }
        let passenger = |n| UserId(Uuid::from_u128(n));
        inputs::join(&mut tx, &[(passenger(0), 4), (passenger(1), 3)].into(), now).await.unwrap();
        to(&mut tx, Partition::new(2, 700), 5_000.0, now).await.unwrap();
        for (zone, expected) in [(0, vec![0, 1, 3, 5, 6, 7]), (1, vec![2, 4])] {
            let waiting = inputs::read(&mut tx, zone, 100).await.unwrap();
            let waiting: Vec<ZoneInput> = waiting.into_iter().map(|(_, input)| input.unwrap()).collect();
            assert_eq!(waiting, expected.iter().map(|n| finder(*n, zone)).collect::<Vec<_>>());
        }
        // What comes after what waits goes where that is, wherever it is.
        let joined = inputs::join(&mut tx, &[(passenger(0), 1), (passenger(1), 0)].into(), now).await.unwrap();
        assert_eq!(joined, [(passenger(0), 0), (passenger(1), 1)].into());
    }
}
