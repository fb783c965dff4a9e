//! Users, drivers and profiles: rows, SQL and routes. It never touches codes, refresh tokens or sockets.
//!
//! No route takes a user's id: whose profile it is comes from the access token alone. Roles are not stored; a user with
//! a row in `drivers` is a driver, everybody is a passenger, and there are no others.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use chrono::{DateTime, Utc};
use imbl::OrdMap;
use platform::problem::Json;
use platform::{On, Problem, SignedIn, StoreError, Transaction};
use serde::{Deserialize, Deserializer, Serialize};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::{UserId, VehicleType};

use crate::sign_in::phone::Phone;
use crate::{Tables, Users};

/// The most characters of a name.
const NAME_MAX: usize = 100;
/// The fewest and the most characters of a plate.
const PLATE_MIN: usize = 2;
const PLATE_MAX: usize = 12;
/// The constraint that keeps a plate to one driver.
const PLATE_KEY: &str = "drivers_plate_key";

/// Users and drivers in memory, with an index for each unique constraint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    users: OrdMap<UserId, UserRow>,
    phones: OrdMap<Phone, UserId>,
    drivers: OrdMap<UserId, Driver>,
    plates: OrdMap<String, UserId>,
}

#[derive(Debug, Clone)]
struct UserRow {
    phone: Phone,
    name: Option<String>,
}

/// What a user drives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Driver {
    /// The kind of vehicle.
    pub(crate) vehicle_type: VehicleType,
    /// Its plate, upper case.
    pub(crate) plate: String,
}

/// A user as the user sees it: the body of `/v1/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Profile {
    id: UserId,
    phone: String,
    name: Option<String>,
    roles: &'static [&'static str],
    driver: Option<Driver>,
}

impl Profile {
    fn new(id: UserId, phone: String, name: Option<String>, driver: Option<Driver>) -> Self {
        let roles: &[&str] = if driver.is_some() { &["passenger", "driver"] } else { &["passenger"] };
        Self { id, phone, name, roles, driver }
    }
}

pub(crate) fn router() -> Router<Users> {
    Router::new().route("/v1/me", get(me).patch(change_me)).route("/v1/drivers", post(register_driver))
}

async fn me(State(users): State<Users>, SignedIn(user): SignedIn) -> Result<Json<Profile>, Problem> {
    let mut tx = users.store.begin().await?;
    profile_of(&mut tx, user).await?.map(Json).ok_or_else(no_such_user)
}

/// A merge patch (RFC 7396) of what a user may change; everything else in it is passed over, roles above all.
#[derive(Debug, Deserialize)]
struct Change {
    /// Absent: kept. Null: taken away.
    #[serde(default, deserialize_with = "present")]
    name: Option<Option<String>>,
}

fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(from).map(Some)
}

async fn change_me(
    State(users): State<Users>,
    SignedIn(user): SignedIn,
    Json(change): Json<Change>,
) -> Result<Json<Profile>, Problem> {
    let name = change.name.map(|name| name.as_deref().map(checked_name).transpose()).transpose()?;
    let mut tx = users.store.begin().await?;
    if let Some(name) = name {
        rename(&mut tx, user, name.as_deref()).await?;
    }
    let profile = profile_of(&mut tx, user).await?.ok_or_else(no_such_user)?;
    tx.commit().await?;
    Ok(Json(profile))
}

#[derive(Debug, Deserialize)]
struct Registration {
    vehicle_type: VehicleType,
    plate: String,
}

/// 201, and 201 again for a repeat of the same; another vehicle of a registered driver is a conflict.
async fn register_driver(
    State(users): State<Users>,
    SignedIn(user): SignedIn,
    Json(asked): Json<Registration>,
) -> Result<(StatusCode, Json<Profile>), Problem> {
    let driver = Driver { vehicle_type: asked.vehicle_type, plate: checked_plate(&asked.plate)? };
    let now = users.platform.world.now();
    let mut tx = users.store.begin().await?;
    if !lock(&mut tx, user).await? {
        return Err(no_such_user());
    }
    match driver_of(&mut tx, user).await? {
        Some(known) if known == driver => {}
        Some(known) => {
            let message = format!("you are a driver already, with {} {}", known.vehicle_type.as_str(), known.plate);
            return Err(Problem::conflict("already_driver", message));
        }
        None => match insert_driver(&mut tx, user, &driver, now).await {
            Err(StoreError::Conflict { constraint }) if constraint == PLATE_KEY => {
                return Err(Problem::conflict("plate_taken", "another driver has this plate"));
            }
            inserted => inserted?,
        },
    }
    let profile = profile_of(&mut tx, user).await?.ok_or_else(no_such_user)?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(profile)))
}

/// The token is sound and its user is not here: another database, or memory that is gone.
fn no_such_user() -> Problem {
    Problem::unauthorized("there is no such user any more: sign in again")
}

fn checked_name(name: &str) -> Result<String, Problem> {
    let name = name.trim();
    if !(1..=NAME_MAX).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err(Problem::field("name", format!("1 to {NAME_MAX} characters, none of them a control character")));
    }
    Ok(name.to_owned())
}

fn checked_plate(plate: &str) -> Result<String, Problem> {
    let plate = plate.trim().to_ascii_uppercase();
    let known = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == ' ' || c == '-';
    let sound = (PLATE_MIN..=PLATE_MAX).contains(&plate.len())
        && plate.chars().all(known)
        && plate.chars().any(|c| c.is_ascii_alphanumeric());
    if !sound {
        let message = format!("{PLATE_MIN} to {PLATE_MAX} characters: letters A to Z, digits, spaces and hyphens");
        return Err(Problem::field("plate", message));
    }
    Ok(plate)
}

fn read_driver(row: &PgRow) -> Result<Option<Driver>, StoreError> {
    let vehicle_type: Option<String> = row.try_get("vehicle_type")?;
    let Some(vehicle_type) = vehicle_type else { return Ok(None) };
    let vehicle_type = vehicle_type.parse().map_err(StoreError::Other)?;
    Ok(Some(Driver { vehicle_type, plate: row.try_get("plate")? }))
}

/// The profile of `user`, if there is such a user.
pub(crate) async fn profile_of(tx: &mut Transaction<Tables>, user: UserId) -> Result<Option<Profile>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "select phone, name, vehicle_type, plate from users left join drivers using (user_id) where user_id = $1",
            )
            .bind(user.0)
            .fetch_optional(&mut *pg)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let driver = read_driver(&row)?;
            Ok(Some(Profile::new(user, row.try_get("phone")?, row.try_get("name")?, driver)))
        }
        On::Memory(m) => {
            let rows = &m.accounts;
            let driver = rows.drivers.get(&user).cloned();
            let profile = |row: &UserRow| Profile::new(user, row.phone.as_str().to_owned(), row.name.clone(), driver);
            Ok(rows.users.get(&user).map(profile))
        }
    }
}

/// What `user` drives; none if the user is no driver.
pub(crate) async fn driver_of(tx: &mut Transaction<Tables>, user: UserId) -> Result<Option<Driver>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select vehicle_type, plate from drivers where user_id = $1")
                .bind(user.0)
                .fetch_optional(&mut *pg)
                .await?;
            row.map_or(Ok(None), |row| read_driver(&row))
        }
        On::Memory(m) => Ok(m.accounts.drivers.get(&user).cloned()),
    }
}

/// The user of `phone`: the one who has it, or else a new passenger with the id `new`.
pub(crate) async fn of_phone_or_new(
    tx: &mut Transaction<Tables>,
    phone: &Phone,
    new: UserId,
    now: DateTime<Utc>,
) -> Result<UserId, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            // The update changes nothing: it makes the row that was there be returned.
            let row = sqlx::query(
                "insert into users (user_id, phone, created_at) values ($1, $2, $3) \
                 on conflict on constraint users_phone_key do update set phone = excluded.phone returning user_id",
            )
            .bind(new.0)
            .bind(phone.as_str())
            .bind(now)
            .fetch_one(&mut *pg)
            .await?;
            Ok(UserId(row.try_get(0)?))
        }
        On::Memory(m) => {
            let rows = &mut m.accounts;
            if let Some(user) = rows.phones.get(phone) {
                return Ok(*user);
            }
            rows.phones.insert(phone.clone(), new);
            rows.users.insert(new, UserRow { phone: phone.clone(), name: None });
            Ok(new)
        }
    }
}

/// Holds the user's row until the transaction ends; false if there is none.
async fn lock(tx: &mut Transaction<Tables>, user: UserId) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select from users where user_id = $1 for update")
                .bind(user.0)
                .fetch_optional(&mut *pg)
                .await?;
            Ok(row.is_some())
        }
        On::Memory(m) => Ok(m.accounts.users.contains_key(&user)),
    }
}

async fn rename(tx: &mut Transaction<Tables>, user: UserId, name: Option<&str>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("update users set name = $2 where user_id = $1")
                .bind(user.0)
                .bind(name)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(m) => {
            if let Some(row) = m.accounts.users.get_mut(&user) {
                row.name = name.map(str::to_owned);
            }
        }
    }
    Ok(())
}

/// Makes `user`, who is none yet, a driver; refused by [`PLATE_KEY`] if another has the plate.
async fn insert_driver(
    tx: &mut Transaction<Tables>,
    user: UserId,
    driver: &Driver,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("insert into drivers (user_id, vehicle_type, plate, registered_at) values ($1, $2, $3, $4)")
                .bind(user.0)
                .bind(driver.vehicle_type.as_str())
                .bind(&driver.plate)
                .bind(now)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(m) => {
            let rows = &mut m.accounts;
            let conflict = |constraint: &str| Err(StoreError::Conflict { constraint: constraint.to_owned() });
            if rows.drivers.contains_key(&user) {
                return conflict("drivers_pkey");
            }
            if !rows.users.contains_key(&user) {
                return conflict("drivers_user_fkey");
            }
            if rows.plates.contains_key(&driver.plate) {
                return conflict(PLATE_KEY);
            }
            rows.plates.insert(driver.plate.clone(), user);
            rows.drivers.insert(user, driver.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_bounded() {
        assert_eq!(checked_name("  Ann O'Hara \"Z\" ").as_deref(), Ok("Ann O'Hara \"Z\""));
        assert_eq!(checked_name(&"ß".repeat(NAME_MAX)), Ok("ß".repeat(NAME_MAX)));
        for wrong in ["", "  ", "a\u{0}b", "a\nb", &"a".repeat(NAME_MAX + 1)] {
            assert_eq!(checked_name(wrong).unwrap_err().field.as_deref(), Some("name"), "{wrong:?}");
        }
    }

    #[test]
    fn plates_have_one_form() {
        assert_eq!(checked_plate(" ab-12 3c ").as_deref(), Ok("AB-12 3C"));
        for wrong in ["", "A", "--", "ABCDEFGHIJKLM", "AB_12", "ÄB 12", "AB\t12"] {
            assert_eq!(checked_plate(wrong).unwrap_err().field.as_deref(), Some("plate"), "{wrong:?}");
        }
    }
}
