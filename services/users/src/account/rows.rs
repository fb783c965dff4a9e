//! The rows of `users` and `drivers`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use platform::store::rows::column;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::UserId;

use super::{Driver, DriverStatus, Profile, Suspension, plate};
use crate::party::cache::Person;
use crate::sign_in::phone::Phone;
use crate::tables::{Tables, UserRow};

/// The constraints that give a plate to one driver only: as it is compared, and as it is written, which those of the version before know.
pub(crate) const VEHICLE_KEYS: [&str; 2] = [PLATE_KEY, "drivers_plate_key"];
const PLATE_KEY: &str = "drivers_plate_key_key";
/// The most users of one call of [`deleted_since`].
const SWEEP_MAX: i64 = 5_000;

/// Reads the columns of `drivers`, which a left join may have left null.
pub(crate) fn read_driver(row: &PgRow) -> Result<Option<Driver>, StoreError> {
    let Some(vehicle_type) = row.try_get::<Option<&str>, _>("vehicle_type")? else { return Ok(None) };
    let vehicle_type = vehicle_type.parse().map_err(StoreError::Other)?;
    Ok(Some(Driver {
        vehicle_type,
        plate: row.try_get("plate")?,
        make: row.try_get("make")?,
        model: row.try_get("model")?,
        color: row.try_get("color")?,
        status: DriverStatus::parse(row.try_get("status")?)?,
    }))
}

/// Reads the columns of both tables, which a left join may have left null.
pub(crate) fn read_profile(row: &PgRow, user: UserId) -> Result<Option<Profile>, StoreError> {
    let Some(phone) = row.try_get::<Option<String>, _>("phone")? else { return Ok(None) };
    Ok(Some(Profile::new(user, phone, row.try_get("name")?, read_driver(row)?)))
}

/// What others may be shown of `users`.
pub(crate) async fn people(
    tx: &mut Transaction<Tables>,
    users: &[UserId],
) -> Result<BTreeMap<UserId, Person>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select user_id, name, vehicle_type, plate, make, model, color, status from users \
                 left join drivers using (user_id) where user_id = any($1) and deleted_at is null",
            )
            .bind(column(users, |user| user.0))
            .fetch_all(&mut *pg)
            .await?;
            let read = |row: &PgRow| -> Result<(UserId, Person), StoreError> {
                Ok((
                    UserId(row.try_get("user_id")?),
                    Person { name: row.try_get("name")?, driver: read_driver(row)?, rating: None },
                ))
            };
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => {
            let rows = &tables.accounts;
            let person = |user: &UserId| {
                let driver = rows.drivers.get(user).cloned();
                Some((*user, Person { name: rows.users.get(user)?.name.clone(), driver, rating: None }))
            };
            Ok(users.iter().filter_map(person).collect())
        }
    }
}

/// `None` if there is no such user.
pub(crate) async fn profile_of(tx: &mut Transaction<Tables>, user: UserId) -> Result<Option<Profile>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select phone, name, vehicle_type, plate, make, model, color, status from users \
                 left join drivers using (user_id) where user_id = $1",
            )
            .bind(user.0)
            .fetch_optional(&mut *pg)
            .await?;
            row.map_or(Ok(None), |row| read_profile(&row, user))
        }
        On::Memory(tables) => Ok(tables.accounts.profile(user)),
    }
}

/// `None` if the user is not a driver.
pub(crate) async fn driver_of(tx: &mut Transaction<Tables>, user: UserId) -> Result<Option<Driver>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row =
                sqlx::query("select vehicle_type, plate, make, model, color, status from drivers where user_id = $1")
                    .bind(user.0)
                    .fetch_optional(&mut *pg)
                    .await?;
            row.map_or(Ok(None), |row| read_driver(&row))
        }
        On::Memory(tables) => Ok(tables.accounts.drivers.get(&user).cloned()),
    }
}

/// The user who has `phone`, or else a new passenger with the id `new_id`.
pub(crate) async fn get_or_insert(
    tx: &mut Transaction<Tables>,
    phone: &Phone,
    new_id: UserId,
    now: DateTime<Utc>,
) -> Result<UserId, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            // The update changes nothing. Without it `returning` would not return the row that exists.
            let row = sqlx::query(
                "insert into users (user_id, phone, created_at) values ($1, $2, $3) \
                 on conflict on constraint users_phone_key do update set phone = excluded.phone returning user_id",
            )
            .bind(new_id.0)
            .bind(phone.as_str())
            .bind(now)
            .fetch_one(&mut *pg)
            .await?;
            Ok(UserId(row.try_get("user_id")?))
        }
        On::Memory(tables) => {
            let rows = &mut tables.accounts;
            if let Some(user) = rows.phones.get(phone) {
                return Ok(*user);
            }
            rows.phones.insert(phone.clone(), new_id);
            rows.users.insert(new_id, UserRow { phone: phone.clone(), name: None, created_at: now });
            Ok(new_id)
        }
    }
}

/// Whether there is an account with `phone`.
pub(crate) async fn exists(tx: &mut Transaction<Tables>, phone: &Phone) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select from users where phone = $1").bind(phone.as_str());
            Ok(row.fetch_optional(&mut *pg).await?.is_some())
        }
        On::Memory(tables) => Ok(tables.accounts.phones.contains_key(phone)),
    }
}

/// Locks the user's row until the transaction ends; false if there is none, or if the account has ended.
pub(crate) async fn lock(tx: &mut Transaction<Tables>, user: UserId) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select from users where user_id = $1 and deleted_at is null for update")
                .bind(user.0)
                .fetch_optional(&mut *pg)
                .await?;
            Ok(row.is_some())
        }
        On::Memory(tables) => Ok(tables.accounts.users.contains_key(&user)),
    }
}

/// Those of `users` who exist and whose rows no other transaction has locked. They stay locked until the transaction ends.
pub(crate) async fn lock_free(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<BTreeSet<UserId>, StoreError> {
    if users.is_empty() {
        return Ok(BTreeSet::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select user_id from users where user_id = any($1) and deleted_at is null for update skip locked",
            )
            .bind(column(users, |user| user.0))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(UserId(row.try_get("user_id")?))).collect()
        }
        On::Memory(tables) => {
            Ok(users.iter().filter(|user| tables.accounts.users.contains_key(*user)).copied().collect())
        }
    }
}

pub(crate) async fn set_name(tx: &mut Transaction<Tables>, user: UserId, name: Option<&str>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update users set name = $2 where user_id = $1 and deleted_at is null")
                .bind(user.0)
                .bind(name)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            if let Some(row) = tables.accounts.users.get_mut(&user) {
                row.name = name.map(str::to_owned);
            }
        }
    }
    Ok(())
}

/// Makes `user` a driver.
///
/// # Errors
/// A conflict with one of [`VEHICLE_KEYS`] if another driver has the plate.
pub(crate) async fn insert_driver(
    tx: &mut Transaction<Tables>,
    user: UserId,
    driver: &Driver,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into drivers (user_id, vehicle_type, plate, registered_at, plate_key, make, model, color, status) \
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(user.0)
            .bind(driver.vehicle_type.as_str())
            .bind(&driver.plate)
            .bind(now)
            .bind(plate::key(&driver.plate))
            .bind(&driver.make)
            .bind(&driver.model)
            .bind(&driver.color)
            .bind(driver.status.as_str())
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let rows = &mut tables.accounts;
            let conflict = |constraint: &str| Err(StoreError::Conflict { constraint: constraint.to_owned() });
            if rows.drivers.contains_key(&user) {
                return conflict("drivers_pkey");
            }
            if !rows.users.contains_key(&user) {
                return conflict("drivers_user_fkey");
            }
            let key = plate::key(&driver.plate);
            if rows.plates.contains_key(&key) {
                return conflict(PLATE_KEY);
            }
            rows.plates.insert(key, user);
            rows.drivers.insert(user, driver.clone());
            rows.registered.insert(user, now);
        }
    }
    Ok(())
}

/// As an operator decides.
pub(crate) async fn set_status(
    tx: &mut Transaction<Tables>,
    user: UserId,
    status: DriverStatus,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update drivers set status = $2, reviewed = reviewed or $2 = 'approved' where user_id = $1")
                .bind(user.0)
                .bind(status.as_str())
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            if let Some(driver) = tables.accounts.drivers.get_mut(&user) {
                driver.status = status;
                if status == DriverStatus::Approved {
                    tables.accounts.reviewed.insert(user);
                }
            }
        }
    }
    Ok(())
}

/// Stores the suspension of `user`.
pub(crate) async fn put_suspension(
    tx: &mut Transaction<Tables>,
    user: UserId,
    (ends_at, before): Suspension,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "insert into suspension_ends (user_id, ends_at, status_after) values ($1, $2, $3) \
                 on conflict on constraint suspension_ends_pkey do update \
                 set ends_at = excluded.ends_at, status_after = excluded.status_after",
            )
            .bind(user.0)
            .bind(ends_at)
            .bind(before.as_str())
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => _ = tables.suspension_ends.insert(user, (ends_at, before)),
    }
    Ok(())
}

pub(crate) async fn delete_suspension(tx: &mut Transaction<Tables>, user: UserId) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from suspension_ends where user_id = $1").bind(user.0).execute(&mut *pg).await?;
        }
        On::Memory(tables) => _ = tables.suspension_ends.remove(&user),
    }
    Ok(())
}

/// `None` if the user is not suspended, or has been since they registered.
pub(crate) async fn suspension(tx: &mut Transaction<Tables>, user: UserId) -> Result<Option<Suspension>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select ends_at, status_after from suspension_ends where user_id = $1").bind(user.0);
            let Some(row) = row.fetch_optional(&mut *pg).await? else { return Ok(None) };
            Ok(Some((row.try_get("ends_at")?, DriverStatus::parse(row.try_get("status_after")?)?)))
        }
        On::Memory(tables) => Ok(tables.suspension_ends.get(&user).copied()),
    }
}

/// At most `limit` drivers whose suspension ends at `now` or before.
pub(crate) async fn suspensions_over(
    tx: &mut Transaction<Tables>,
    now: DateTime<Utc>,
    limit: u32,
) -> Result<Vec<UserId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select user_id from suspension_ends where ends_at <= $1 order by ends_at limit $2")
                .bind(now)
                .bind(i64::from(limit))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(|row| Ok(UserId(row.try_get("user_id")?))).collect()
        }
        On::Memory(tables) => {
            let is_over = |ends_at: &Option<DateTime<Utc>>| ends_at.is_some_and(|ends_at| ends_at <= now);
            let over = tables.suspension_ends.iter().filter(|(_, (ends_at, _))| is_over(ends_at));
            Ok(over.take(limit as usize).map(|(user, _)| *user).collect())
        }
    }
}

/// Gives a driver the status that they had before a suspension: no operator has decided anything.
pub(crate) async fn end_suspension(
    tx: &mut Transaction<Tables>,
    user: UserId,
    status: DriverStatus,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update drivers set status = $2 where user_id = $1 and status = 'suspended'")
                .bind(user.0)
                .bind(status.as_str())
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let driver = tables.accounts.drivers.get_mut(&user);
            if let Some(driver) = driver.filter(|driver| driver.status == DriverStatus::Suspended) {
                driver.status = status;
            }
        }
    }
    Ok(())
}

/// Whether an operator has approved the driver.
pub(crate) async fn is_reviewed(tx: &mut Transaction<Tables>, user: UserId) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let reviewed = sqlx::query_scalar("select reviewed from drivers where user_id = $1").bind(user.0);
            Ok(reviewed.fetch_optional(&mut *pg).await?.unwrap_or(false))
        }
        On::Memory(tables) => Ok(tables.accounts.reviewed.contains(&user)),
    }
}

/// Stores what a driver drives.
///
/// # Errors
/// A conflict with one of [`VEHICLE_KEYS`] if another driver has the plate.
pub(crate) async fn set_vehicle(
    tx: &mut Transaction<Tables>,
    user: UserId,
    vehicle: &Driver,
) -> Result<(), StoreError> {
    let key = plate::key(&vehicle.plate);
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "update drivers set vehicle_type = $2, plate = $3, plate_key = $4, make = $5, model = $6, color = $7 \
                 where user_id = $1",
            )
            .bind(user.0)
            .bind(vehicle.vehicle_type.as_str())
            .bind(&vehicle.plate)
            .bind(key)
            .bind(&vehicle.make)
            .bind(&vehicle.model)
            .bind(&vehicle.color)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            let rows = &mut tables.accounts;
            if rows.plates.get(&key).is_some_and(|of| *of != user) {
                return Err(StoreError::Conflict { constraint: PLATE_KEY.to_owned() });
            }
            if let Some(driver) = rows.drivers.get_mut(&user) {
                rows.plates.remove(&plate::key(&driver.plate));
                rows.plates.insert(key, user);
                *driver = Driver { status: driver.status, ..vehicle.clone() };
            }
        }
    }
    Ok(())
}

/// Gives an account another phone.
///
/// # Errors
/// A conflict if another account has it.
pub(crate) async fn set_phone(tx: &mut Transaction<Tables>, user: UserId, phone: &Phone) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update users set phone = $2 where user_id = $1 and deleted_at is null")
                .bind(user.0)
                .bind(phone.as_str())
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let rows = &mut tables.accounts;
            if rows.phones.get(phone).is_some_and(|of| *of != user) {
                return Err(StoreError::Conflict { constraint: "users_phone_key".to_owned() });
            }
            if let Some(row) = rows.users.get_mut(&user) {
                rows.phones.remove(&row.phone);
                rows.phones.insert(phone.clone(), user);
                row.phone = phone.clone();
            }
        }
    }
    Ok(())
}

pub(crate) async fn phone_of(tx: &mut Transaction<Tables>, user: UserId) -> Result<Option<Phone>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select phone from users where user_id = $1 and phone is not null")
                .bind(user.0)
                .fetch_optional(&mut *pg)
                .await?;
            let Some(row) = row else { return Ok(None) };
            let phone = Phone::parse(row.try_get("phone")?);
            phone.map(Some).map_err(|problem| StoreError::Other(format!("a stored phone: {}", problem.message)))
        }
        On::Memory(tables) => Ok(tables.accounts.users.get(&user).map(|row| row.phone.clone())),
    }
}

/// Since when there is an account, and since when the user is a driver.
pub(crate) async fn since(
    tx: &mut Transaction<Tables>,
    user: UserId,
) -> Result<Option<(DateTime<Utc>, Option<DateTime<Utc>>)>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select created_at, registered_at from users left join drivers using (user_id) where user_id = $1",
            )
            .bind(user.0)
            .fetch_optional(&mut *pg)
            .await?;
            Ok(row.map(|row| Ok::<_, sqlx::Error>((row.try_get(0)?, row.try_get(1)?))).transpose()?)
        }
        On::Memory(tables) => {
            let rows = &tables.accounts;
            Ok(rows.users.get(&user).map(|row| (row.created_at, rows.registered.get(&user).copied())))
        }
    }
}

/// Erases the account of `user`, whose row the caller has locked: the id stays.
pub(crate) async fn delete(tx: &mut Transaction<Tables>, user: UserId, now: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            for statement in [
                "delete from drivers where user_id = $1",
                "delete from driver_documents where user_id = $1",
                "delete from suspension_ends where user_id = $1",
            ] {
                sqlx::query(statement).bind(user.0).execute(&mut *pg).await?;
            }
            sqlx::query(
                "update users set phone = null, name = null, deleted_at = $2 where user_id = $1 and deleted_at is null",
            )
            .bind(user.0)
            .bind(now)
            .execute(&mut *pg)
            .await?;
        }
        On::Memory(tables) => {
            tables.documents.remove(&user);
            tables.suspension_ends.remove(&user);
            let rows = &mut tables.accounts;
            let Some(row) = rows.users.remove(&user) else { return Ok(()) };
            rows.phones.remove(&row.phone);
            rows.reviewed.remove(&user);
            if let Some(driver) = rows.drivers.remove(&user) {
                rows.plates.remove(&plate::key(&driver.plate));
            }
            rows.registered.remove(&user);
            rows.deleted.insert(user, now);
        }
    }
    Ok(())
}

/// Those of `users` whose accounts have ended.
pub(crate) async fn deleted(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<BTreeSet<UserId>, StoreError> {
    if users.is_empty() {
        return Ok(BTreeSet::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select user_id from users where user_id = any($1) and deleted_at is not null")
                .bind(column(users, |user| user.0))
                .fetch_all(&mut *pg)
                .await?;
            rows.iter().map(|row| Ok(UserId(row.try_get("user_id")?))).collect()
        }
        On::Memory(tables) => {
            let deleted = &tables.accounts.deleted;
            Ok(users.iter().filter(|user| deleted.contains_key(*user)).copied().collect())
        }
    }
}

/// The users whose accounts ended after `since`, the last ones first, [`SWEEP_MAX`] at most.
pub(crate) async fn deleted_since(
    tx: &mut Transaction<Tables>,
    since: DateTime<Utc>,
) -> Result<Vec<UserId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select user_id from users where deleted_at > $1 order by deleted_at desc, user_id desc limit $2",
            )
            .bind(since)
            .bind(SWEEP_MAX)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(UserId(row.try_get("user_id")?))).collect()
        }
        On::Memory(tables) => {
            let later = tables.accounts.deleted.iter().filter(|(_, at)| **at > since);
            let mut later: Vec<_> = later.map(|(user, at)| (*at, *user)).collect();
            later.sort_unstable_by(|a, b| b.cmp(a));
            later.truncate(usize::try_from(SWEEP_MAX).unwrap_or(usize::MAX));
            Ok(later.into_iter().map(|(_, user)| user).collect())
        }
    }
}

/// Users whose accounts ended and of whom rides may still have something. A minute after the end at the earliest: then all processes
/// refuse their tokens.
pub(crate) async fn to_erase_elsewhere(
    tx: &mut Transaction<Tables>,
    most: usize,
    now: DateTime<Utc>,
) -> Result<Vec<UserId>, StoreError> {
    let ended_before = now - TimeDelta::minutes(1);
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select user_id from users where deleted_at < $1 and erased_elsewhere_at is null \
                 order by deleted_at limit $2",
            )
            .bind(ended_before)
            .bind(i64::try_from(most).unwrap_or(i64::MAX))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(UserId(row.try_get("user_id")?))).collect()
        }
        On::Memory(tables) => {
            let rows = &tables.accounts;
            let open =
                rows.deleted.iter().filter(|(user, at)| **at < ended_before && !rows.erased_elsewhere.contains(*user));
            Ok(open.take(most).map(|(user, _)| *user).collect())
        }
    }
}

/// Rides has nothing of these people any more.
pub(crate) async fn set_erased_elsewhere(
    tx: &mut Transaction<Tables>,
    users: &[UserId],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update users set erased_elsewhere_at = $2 where user_id = any($1)")
                .bind(column(users, |user| user.0))
                .bind(now)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => tables.accounts.erased_elsewhere.extend(users.iter().copied()),
    }
    Ok(())
}
