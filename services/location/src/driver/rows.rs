//! The rows of `drivers`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use geospatial::newest::Place;
use platform::store::rows::column;
use platform::{On, StoreError};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{Position, UserId};

use super::DriverRow;
use crate::tables::Tx;

/// How long a driver who went off duty is stored after that.
const OFF_DUTY_STORED: Duration = Duration::days(30);

/// The rows of `drivers`, locked in the order of their ids until the transaction ends.
pub(crate) async fn lock(tx: &mut Tx, drivers: &BTreeSet<UserId>) -> Result<BTreeMap<UserId, DriverRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select * from drivers where user_id = any($1) order by user_id for update")
                .bind(column(drivers, |driver| driver.0))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(|row| read(row).map(|driver| (driver.user_id, driver))).collect()
        }
        On::Memory(tables) => {
            Ok(drivers.iter().filter_map(|driver| Some((*driver, tables.drivers.get(driver)?.clone()))).collect())
        }
    }
}

/// The same without a lock.
pub(crate) async fn find(tx: &mut Tx, drivers: &BTreeSet<UserId>) -> Result<Vec<DriverRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select * from drivers where user_id = any($1) order by user_id")
                .bind(column(drivers, |driver| driver.0))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => Ok(drivers.iter().filter_map(|driver| tables.drivers.get(driver).cloned()).collect()),
    }
}

/// Inserts or replaces rows, in the order of `rows`, which is that of ids.
pub(crate) async fn put(tx: &mut Tx, rows: &[DriverRow]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into drivers (user_id, active, vehicle_type, beacon_at, beacon_device, lat, lng, device, device_at, \
                 recorded_at, received_at, is_beacon, changed_at) select * from unnest($1::uuid[], $2::bool[], $3::text[], \
                 $4::timestamptz[], $5::text[], $6::float8[], $7::float8[], $8::text[], $9::timestamptz[], \
                 $10::timestamptz[], $11::timestamptz[], $12::bool[], $13::timestamptz[]) \
                 on conflict on constraint drivers_pkey do update set active = excluded.active, \
                 vehicle_type = excluded.vehicle_type, beacon_at = excluded.beacon_at, \
                 beacon_device = excluded.beacon_device, lat = excluded.lat, lng = excluded.lng, \
                 device = excluded.device, device_at = excluded.device_at, recorded_at = excluded.recorded_at, \
                 received_at = excluded.received_at, is_beacon = excluded.is_beacon, changed_at = excluded.changed_at",
            )
            .bind(column(rows, |d| d.user_id.0))
            .bind(column(rows, |d| d.active))
            .bind(column(rows, |d| d.vehicle_type.as_str()))
            .bind(column(rows, |d| d.beacon_at))
            .bind(column(rows, |d| d.beacon_device.clone()))
            .bind(column(rows, |d| d.place.position.lat))
            .bind(column(rows, |d| d.place.position.lng))
            .bind(column(rows, |d| d.device.clone()))
            .bind(column(rows, |d| d.place.device_at))
            .bind(column(rows, |d| d.place.recorded_at))
            .bind(column(rows, |d| d.place.received_at))
            .bind(column(rows, |d| d.place.is_beacon))
            .bind(column(rows, |d| d.changed_at))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => tables.drivers.extend(rows.iter().map(|row| (row.user_id, row.clone()))),
    }
    Ok(())
}

/// The place of a driver, with the device that measured it.
pub(crate) type StoredPlace = (UserId, Place, String);

/// Writes places of drivers who have a row, unless it has a newer one.
pub(crate) async fn move_to(tx: &mut Tx, places: &[StoredPlace]) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "with mine as (select user_id from drivers where user_id = any($1) order by user_id for update) \
                 update drivers set lat = p.lat, lng = p.lng, device = p.device, device_at = p.device_at, \
                 recorded_at = p.recorded_at, received_at = p.received_at, is_beacon = p.is_beacon from mine join \
                 unnest($1::uuid[], $2::float8[], $3::float8[], $4::text[], $5::timestamptz[], $6::timestamptz[], \
                 $7::timestamptz[], $8::bool[]) as p (user_id, lat, lng, device, device_at, recorded_at, received_at, \
                 is_beacon) using (user_id) where drivers.user_id = mine.user_id and drivers.received_at <= p.received_at",
            )
            .bind(column(places, |p| p.0.0))
            .bind(column(places, |p| p.1.position.lat))
            .bind(column(places, |p| p.1.position.lng))
            .bind(column(places, |p| p.2.clone()))
            .bind(column(places, |p| p.1.device_at))
            .bind(column(places, |p| p.1.recorded_at))
            .bind(column(places, |p| p.1.received_at))
            .bind(column(places, |p| p.1.is_beacon))
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            for (driver, place, device) in places {
                if let Some(row) = tables.drivers.get_mut(driver)
                    && row.place.received_at <= place.received_at
                {
                    (row.place, row.device) = (*place, device.clone());
                }
            }
        }
    }
    Ok(())
}

/// The drivers on duty.
pub(crate) async fn on_duty(tx: &mut Tx) -> Result<Vec<DriverRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select * from drivers where active order by user_id").fetch_all(&mut *pg).await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => Ok(tables.drivers.values().filter(|row| row.active).cloned().collect()),
    }
}

/// The drivers of whom a beacon came at `since` or later, on duty or off.
pub(crate) async fn changed_since(tx: &mut Tx, since: DateTime<Utc>) -> Result<Vec<DriverRow>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select * from drivers where changed_at >= $1 order by user_id")
                .bind(since)
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => Ok(tables.drivers.values().filter(|row| row.changed_at >= since).cloned().collect()),
    }
}

/// Deletes drivers who went off duty [`OFF_DUTY_STORED`] ago.
pub(crate) async fn purge(tx: &mut Tx, now: DateTime<Utc>) -> Result<(), StoreError> {
    let before = now - OFF_DUTY_STORED;
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from drivers where changed_at < $1 and not active")
                .bind(before)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let left = tables.drivers.iter().filter(|(_, row)| row.active || row.changed_at >= before);
            tables.drivers = left.map(|(id, row)| (*id, row.clone())).collect();
        }
    }
    Ok(())
}

fn read(row: &PgRow) -> Result<DriverRow, StoreError> {
    let vehicle_type: &str = row.try_get("vehicle_type")?;
    Ok(DriverRow {
        user_id: UserId(row.try_get("user_id")?),
        active: row.try_get("active")?,
        vehicle_type: vehicle_type.parse().map_err(StoreError::Other)?,
        beacon_at: row.try_get("beacon_at")?,
        beacon_device: row.try_get("beacon_device")?,
        place: Place {
            position: Position { lat: row.try_get("lat")?, lng: row.try_get("lng")? },
            speed_mps: None,
            heading_deg: None,
            ride_id: None,
            ride_device: false,
            device_at: row.try_get("device_at")?,
            recorded_at: row.try_get("recorded_at")?,
            received_at: row.try_get("received_at")?,
            is_beacon: row.try_get("is_beacon")?,
        },
        device: row.try_get("device")?,
        changed_at: row.try_get("changed_at")?,
    })
}

#[cfg(test)]
mod tests {
    use platform::World;
    use streams::VehicleType;
    use streams::event::UserBeacon;
    use testing::{Backend, on_both_stores};
    use uuid::Uuid;

    use super::*;
    use crate::tables::Tables;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::seconds(seconds)
    }

    fn driver(n: u128) -> UserId {
        UserId(Uuid::from_u128(n))
    }

    fn beacon(n: u128, active: bool, north: f64, recorded: i64, located: i64) -> UserBeacon {
        UserBeacon {
            user_id: driver(n),
            active,
            vehicle_type: VehicleType::Van,
            location: Position { lat: north, lng: 30.0 },
            recorded_at: at(recorded),
            located_at: Some(at(located)),
            device: Some("phone".to_owned()),
        }
    }

    on_both_stores!(a_beacon_is_a_row_and_a_place_is_written_unless_the_row_has_a_newer_one,);

    async fn a_beacon_is_a_row_and_a_place_is_written_unless_the_row_has_a_newer_one(backend: Backend) {
        let store = backend.store::<Tables>(&World::seeded(at(0), 1), "test", "location", &crate::MIGRATIONS).await;
        let mut tx = store.begin().await.unwrap();
        let row = |known: Option<&DriverRow>, b: UserBeacon| {
            DriverRow::after(known, &b, b.recorded_at, b.recorded_at).unwrap()
        };
        let (first, second) = (row(None, beacon(1, true, 1.0, 10, 10)), row(None, beacon(2, true, 2.0, 10, 10)));
        put(&mut tx, &[first.clone(), second.clone()]).await.unwrap();
        assert_eq!(on_duty(&mut tx).await.unwrap(), [first.clone(), second.clone()]);
        let moved = |north: f64, seconds: i64| {
            let position = Position { lat: north, lng: 30.0 };
            let place = Place {
                position,
                device_at: at(seconds - 20),
                received_at: at(seconds),
                is_beacon: false,
                ..first.place
            };
            (driver(1), place, "phone".to_owned())
        };
        move_to(&mut tx, &[moved(1.5, 20), (driver(9), moved(9.0, 20).1, String::new())]).await.unwrap();
        move_to(&mut tx, &[moved(1.4, 15)]).await.unwrap();
        let both = BTreeSet::from([1, 2, 9].map(driver));
        let locked = lock(&mut tx, &both).await.unwrap();
        assert_eq!(find(&mut tx, &both).await.unwrap(), locked.values().cloned().collect::<Vec<_>>());
        assert_eq!(locked.len(), 2, "no row comes of a position alone");
        let known = &locked[&driver(1)];
        assert_eq!((known.place, known.changed_at), (moved(1.5, 20).1, at(10)));
        // The socket closes: off duty, at the same place. It opens, and an older beacon comes last.
        let off = row(Some(known), beacon(1, false, 1.0, 30, 10));
        assert_eq!((off.active, off.place), (false, known.place));
        let on = row(Some(&off), beacon(1, true, 1.0, 31, 10));
        assert!(on.active && on.place == known.place && on.beacon_device.as_deref() == Some("phone"));
        let again = row(Some(&on), beacon(1, false, 1.0, 30, 10));
        assert!(again.active && again.beacon_at == at(31));
        put(&mut tx, std::slice::from_ref(&off)).await.unwrap();
        assert_eq!(on_duty(&mut tx).await.unwrap(), std::slice::from_ref(&second));
        assert_eq!(changed_since(&mut tx, at(11)).await.unwrap(), [off]);
        purge(&mut tx, at(31) + OFF_DUTY_STORED).await.unwrap();
        assert_eq!(lock(&mut tx, &both).await.unwrap().into_keys().collect::<Vec<_>>(), [driver(2)]);
        tx.commit().await.unwrap();
    }
}
