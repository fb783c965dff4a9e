//! The leases that say which process matches where. With one zone (the default) there is one: its holder is active, the others are warm
//! standbys. With more each zone has one, and every process has its share of them (`owners.rs`). This file knows nothing of matching.
//!
//! A lease is a row: (name, epoch, holder, expires_at), by the database's clock. Its holder renews it every second
//! for 5 s, with one zone every other second. Others look every half second, and take it once it has expired, with a new epoch.
//!
//! Every transaction of an engine reads its row `for key share` and checks that the epoch is still its own. So a process
//! that takes the lease waits until a running engine transaction has ended, and an engine transaction that begins later sees
//! the new epoch and is fenced. Two processes never write for one zone, whatever their clocks say and however long one was stopped.
//! A renewal does not wait for engine transactions: it changes no key column, and only a change of a key column conflicts
//! with `for key share`. A take-over does change one, because `epoch` is part of a unique constraint.
//!
//! Epochs are unique over all zones, because the record of the engines has them in its key: they are given under the lock of the row
//! `zones`, which is taken after that of the zone, so that nobody waits for a transaction of another zone. That row says which division of
//! the map is in force. Another one begins when no lease of the old one is live, with the first lease that is taken of it: then rows get
//! other zones (`rezone.rs`), and all epochs become new.
//!
//! Why not a PostgreSQL advisory lock: it belongs to one connection. A process that lost that connection would still believe
//! that it is active while another one is, and nothing would tie its writes to the lock.
//!
//! In memory the rules are the same, by the world's clock.

use chrono::{DateTime, Duration, Utc};
use platform::store::rows::column;
use platform::{Failure, On, StoreError};
use sqlx::{PgConnection, Row};

use crate::rezone;
use crate::tables::{LeaseRow, Member, Tx};
use crate::zones::{Partition, Zone, ZoneSet};

/// The row that says which division is in force. No zone has this name.
const IN_FORCE: &str = "zones";

/// Zone 0 has the name that the one lease has: a process that knows no zones is not active beside one that does.
fn name(zone: u16) -> String {
    if zone == 0 { "match".to_owned() } else { format!("match.{zone}") }
}

/// A zone that a process holds, and the epoch of its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub zone: u16,
    pub epoch: i64,
}

/// Takes the lease of a zone for `ttl` if it is free or has expired, and returns its new epoch. `now` is used in memory only, and for rows
/// that get another zone.
///
/// # Errors
/// [`StoreError`].
pub async fn take(
    tx: &mut Tx,
    zone: Zone,
    holder: &str,
    ttl: Duration,
    (now, radius_m): (DateTime<Utc>, f64),
) -> Result<Option<i64>, StoreError> {
    let (partition, number) = (zone.partition, zone.number);
    match tx.on() {
        On::Postgres(pg) => {
            // Read first: what follows locks the row, and blocks engine transactions, even when it changes nothing.
            let rows = sqlx::query("select name, expires_at >= now() as held from lease where name in ($1, $2)")
                .bind(name(number))
                .bind(IN_FORCE)
                .fetch_all(&mut *pg)
                .await?;
            let mut has_zones = false;
            for row in &rows {
                if row.try_get::<&str, _>("name")? == IN_FORCE {
                    has_zones = true;
                } else if row.try_get("held")? {
                    return Ok(None);
                }
            }
            if partition.is_one() && !has_zones {
                return take_the_only(pg, holder, ttl).await;
            }
        }
        On::Memory(tables) => {
            if tables.leases.get(&number).is_some_and(|lease| lease.expires_at >= now) {
                return Ok(None);
            }
        }
    }
    if !lock_zone(tx, number).await? {
        return Ok(None);
    }
    if !is_in_force_locked(tx, partition).await? {
        if is_any_held(tx, now).await? {
            return Ok(None);
        }
        // First: it waits for the transactions of engines and routers that run, and fences those that begin later. What they wrote is
        // among the rows that get other zones then.
        put_in_force(tx, partition).await?;
        rezone::to(tx, partition, radius_m, now).await?;
    }
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query(
                "update lease set epoch = (select max(epoch) + 1 from lease where name <> $2), holder = $3, \
                 expires_at = now() + $4, zones = $5, cell_m = $6 where name = $1 returning epoch",
            )
            .bind(name(number))
            .bind(IN_FORCE)
            .bind(holder)
            .bind(ttl)
            .bind(i32::from(partition.zones()))
            .bind(i32::try_from(partition.cell_m()).unwrap_or(i32::MAX))
            .fetch_one(&mut *pg)
            .await?;
            Ok(Some(row.try_get(0)?))
        }
        On::Memory(tables) => {
            let epoch = tables.leases.values().map(|lease| lease.epoch).max().unwrap_or(0) + 1;
            let lease = LeaseRow { epoch, holder: holder.to_owned(), expires_at: now + ttl };
            tables.leases.insert(number, lease);
            Ok(Some(epoch))
        }
    }
}

/// Where the map was never divided.
async fn take_the_only(pg: &mut PgConnection, holder: &str, ttl: Duration) -> Result<Option<i64>, StoreError> {
    let row = sqlx::query(
        "insert into lease (name, epoch, holder, expires_at) values ($3, 1, $1, now() + $2) \
         on conflict (name) do update set epoch = lease.epoch + 1, holder = excluded.holder, \
         expires_at = excluded.expires_at where lease.expires_at < now() returning epoch",
    )
    .bind(holder)
    .bind(ttl)
    .bind(name(0))
    .fetch_optional(pg)
    .await?;
    Ok(row.map(|r| r.try_get(0)).transpose()?)
}

/// Locks the row of a zone, after the engine transactions that run. False if another process has taken it meanwhile.
async fn lock_zone(tx: &mut Tx, number: u16) -> Result<bool, StoreError> {
    let On::Postgres(pg) = tx.on() else { return Ok(true) };
    sqlx::query(
        "insert into lease (name, epoch, holder, expires_at) values ($1, 0, '', '-infinity'), ($2, 0, '', '-infinity') \
         on conflict (name) do nothing",
    )
    .bind(name(number))
    .bind(IN_FORCE)
    .execute(&mut *pg)
    .await?;
    let row = sqlx::query("select expires_at < now() from lease where name = $1 for update")
        .bind(name(number))
        .fetch_one(&mut *pg)
        .await?;
    Ok(row.try_get(0)?)
}

/// Whether this division is in force; nobody changes that, or gives an epoch, until the transaction ends.
async fn is_in_force_locked(tx: &mut Tx, partition: Partition) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select zones, cell_m from lease where name = $1 for no key update")
                .bind(IN_FORCE)
                .fetch_one(pg)
                .await?;
            Ok((row.try_get(0)?, row.try_get(1)?) == in_row(partition))
        }
        On::Memory(tables) => Ok(tables.partition.unwrap_or(Partition::ONE) == partition),
    }
}

fn in_row(partition: Partition) -> (i32, i32) {
    (i32::from(partition.zones()), i32::try_from(partition.cell_m()).unwrap_or(i32::MAX))
}

async fn is_any_held(tx: &mut Tx, now: DateTime<Utc>) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let held = sqlx::query("select 1 from lease where name <> $1 and expires_at >= now() limit 1")
                .bind(IN_FORCE)
                .fetch_optional(pg)
                .await?;
            Ok(held.is_some())
        }
        On::Memory(tables) => Ok(tables.leases.values().any(|lease| lease.expires_at >= now)),
    }
}

/// From now on this division is in force, and whoever has an epoch is fenced.
async fn put_in_force(tx: &mut Tx, partition: Partition) -> Result<(), StoreError> {
    let (zones, cell_m) = in_row(partition);
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query(
                "update lease set epoch = epoch + (select max(epoch) from lease where name <> $1) where name <> $1",
            )
            .bind(IN_FORCE)
            .execute(&mut *pg)
            .await?;
            sqlx::query("update lease set epoch = epoch + 1, zones = $2, cell_m = $3 where name = $1")
                .bind(IN_FORCE)
                .bind(zones)
                .bind(cell_m)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(tables) => {
            let max = tables.leases.values().map(|lease| lease.epoch).max().unwrap_or(0);
            let leases = tables.leases.iter();
            let bumped = leases.map(|(zone, lease)| (*zone, LeaseRow { epoch: lease.epoch + max, ..lease.clone() }));
            tables.leases = bumped.collect();
            tables.partition = Some(partition);
        }
    }
    Ok(())
}

/// Renews the lease for `ttl`. False if another process has taken it.
///
/// # Errors
/// [`StoreError`].
pub async fn renew(tx: &mut Tx, held: Held, ttl: Duration, now: DateTime<Utc>) -> Result<bool, StoreError> {
    Ok(!renew_all(tx, &[held], ttl, now).await?.is_empty())
}

/// Renews leases for `ttl`. Returns the zones that no other process has taken.
async fn renew_all(tx: &mut Tx, held: &[Held], ttl: Duration, now: DateTime<Utc>) -> Result<ZoneSet, StoreError> {
    let mut renewed = ZoneSet::default();
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "update lease set expires_at = now() + $3 from unnest($1::text[], $2::bigint[]) as u (name, epoch) \
                 where lease.name = u.name and lease.epoch = u.epoch returning lease.name",
            )
            .bind(column(held, |held| name(held.zone)))
            .bind(column(held, |held| held.epoch))
            .bind(ttl)
            .fetch_all(pg)
            .await?;
            for row in &rows {
                let of: &str = row.try_get(0)?;
                let zone = held.iter().find(|held| name(held.zone) == of).map(|held| ZoneSet::of(held.zone));
                renewed = renewed.union(zone.unwrap_or_default());
            }
        }
        On::Memory(tables) => {
            for Held { zone, epoch } in held {
                if let Some(lease) = tables.leases.get_mut(zone).filter(|lease| lease.epoch == *epoch) {
                    lease.expires_at = now + ttl;
                    renewed = renewed.union(ZoneSet::of(*zone));
                }
            }
        }
    }
    Ok(renewed)
}

/// Lets the lease expire now, so that another process can take it at once. False if one has taken it already.
///
/// # Errors
/// [`StoreError`].
pub async fn release(tx: &mut Tx, held: Held, now: DateTime<Utc>) -> Result<bool, StoreError> {
    renew(tx, held, Duration::milliseconds(-1), now).await
}

/// Checks that the lease still has this epoch, and blocks any other process from taking it until this transaction ends.
///
/// # Errors
/// [`Failure::Fenced`] if another process has taken it.
pub async fn guard(tx: &mut Tx, held: Held) -> Result<(), Failure> {
    let is_held = match tx.on() {
        On::Postgres(pg) => sqlx::query("select 1 from lease where name = $2 and epoch = $1 for key share")
            .bind(held.epoch)
            .bind(name(held.zone))
            .fetch_optional(&mut *pg)
            .await
            .map_err(StoreError::from)?
            .is_some(),
        On::Memory(tables) => tables.leases.get(&held.zone).is_some_and(|lease| lease.epoch == held.epoch),
    };
    if is_held { Ok(()) } else { Err(Failure::Fenced) }
}

/// Checks that this division is in force, and that none other begins until this transaction ends.
///
/// # Errors
/// [`Failure::Fenced`] if it is not.
pub async fn guard_division(tx: &mut Tx, partition: Partition) -> Result<(), Failure> {
    let is_in_force = match tx.on() {
        On::Postgres(pg) => {
            let (zones, cell_m) = in_row(partition);
            sqlx::query("select 1 from lease where name = $1 and zones = $2 and cell_m = $3 for key share")
                .bind(IN_FORCE)
                .bind(zones)
                .bind(cell_m)
                .fetch_optional(pg)
                .await
                .map_err(StoreError::from)?
                .is_some()
        }
        On::Memory(tables) => tables.partition == Some(partition),
    };
    if is_in_force { Ok(()) } else { Err(Failure::Fenced) }
}

/// How the zones stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Those of this process that no other one has taken.
    pub renewed: ZoneSet,
    /// Those without an owner.
    pub free: ZoneSet,
    /// Live processes with the same division, this one included.
    pub members: usize,
    /// How many of them come before this one, in the order of their names.
    pub members_before: usize,
    /// The division of this process is in force.
    pub is_in_force: bool,
}

/// Says that this process lives, and renews its leases, each for `ttl`.
///
/// # Errors
/// [`StoreError`].
pub async fn attend(
    tx: &mut Tx,
    partition: Partition,
    (holder, held): (&str, &[Held]),
    ttl: Duration,
    now: DateTime<Utc>,
) -> Result<Standing, StoreError> {
    let renewed = renew_all(tx, held, ttl, now).await?;
    let mut standing = Standing { renewed, ..Standing::default() };
    match tx.on() {
        On::Postgres(pg) => {
            let (zones, cell_m) = in_row(partition);
            sqlx::query(
                "insert into members (holder, zones, cell_m, expires_at) values ($1, $2, $3, now() + $4) on conflict (holder) \
                 do update set zones = excluded.zones, cell_m = excluded.cell_m, expires_at = excluded.expires_at",
            )
            .bind(holder)
            .bind(zones)
            .bind(cell_m)
            .bind(ttl)
            .execute(&mut *pg)
            .await?;
            let row = sqlx::query(
                "select count(*), count(*) filter (where holder < $3) from members \
                 where expires_at >= now() and zones = $1 and cell_m = $2",
            )
            .bind(zones)
            .bind(cell_m)
            .bind(holder)
            .fetch_one(&mut *pg)
            .await?;
            standing.members = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(1);
            standing.members_before = usize::try_from(row.try_get::<i64, _>(1)?).unwrap_or(0);
            let row = sqlx::query("select zones = $1 and cell_m = $2 from lease where name = $3")
                .bind(zones)
                .bind(cell_m)
                .bind(IN_FORCE)
                .fetch_optional(&mut *pg)
                .await?;
            standing.is_in_force = row.map(|row| row.try_get(0)).transpose()?.unwrap_or(false);
        }
        On::Memory(tables) => {
            tables.members.insert(holder.to_owned(), Member { partition, expires_at: now + ttl });
            let live = |member: &&Member| member.expires_at >= now && member.partition == partition;
            standing.members = tables.members.values().filter(live).count();
            let before = tables.members.iter().filter(|(name, _)| name.as_str() < holder);
            standing.members_before = before.map(|(_, member)| member).filter(live).count();
            standing.is_in_force = tables.partition == Some(partition);
        }
    }
    standing.free = free(tx, partition, now).await?;
    Ok(standing)
}

/// The zones whose lease nobody holds.
///
/// # Errors
/// [`StoreError`].
pub async fn free(tx: &mut Tx, partition: Partition, now: DateTime<Utc>) -> Result<ZoneSet, StoreError> {
    let all = 0..partition.zones();
    let held: Vec<u16> = match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select name from lease where expires_at >= now()").fetch_all(pg).await?;
            let names = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
            all.clone().filter(|zone| names.contains(&name(*zone))).collect()
        }
        On::Memory(tables) => {
            tables.leases.iter().filter(|(_, lease)| lease.expires_at >= now).map(|(zone, _)| *zone).collect()
        }
    };
    let free = all.filter(|zone| !held.contains(zone));
    Ok(free.fold(ZoneSet::default(), |free, zone| free.union(ZoneSet::of(zone))))
}

/// This process leaves: the others need not wait until it is no member any more. Deletes those long gone, too.
///
/// # Errors
/// [`StoreError`].
pub async fn leave(tx: &mut Tx, holder: &str, now: DateTime<Utc>) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from members where holder = $1 or expires_at < now() - interval '1 hour'")
                .bind(holder)
                .execute(pg)
                .await?;
        }
        On::Memory(tables) => {
            let rest = tables.members.iter().filter(|(name, member)| *name != holder && member.expires_at >= now);
            tables.members = rest.map(|(name, member)| (name.clone(), member.clone())).collect();
        }
    }
    Ok(())
}
