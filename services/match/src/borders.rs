//! What zones see of each other in the store: who is engaged elsewhere, which new offers another zone was first with, which zones know a
//! driver, and in which zone an offer, a request or a ride is.

use std::collections::{BTreeMap, BTreeSet};

use platform::store::rows::column;
use platform::{On, StoreError};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use streams::{MatchId, RequestId, RideId, UserId};
use uuid::Uuid;

use crate::engine::rows::{claim, read_driver};
use crate::engine::{Driver, Offer};
use crate::tables::{Tables, Tx};
use crate::zones::{Partition, Zone, ZoneSet};

fn zone(row: &PgRow, column: &str) -> Result<u16, StoreError> {
    Ok(u16::try_from(row.try_get::<i32, _>(column)?).unwrap_or(0))
}

fn zones(row: &PgRow) -> Result<ZoneSet, StoreError> {
    Ok(ZoneSet(row.try_get::<i64, _>("zones")?.cast_unsigned()))
}

/// Each part finds the users by an index on live rows: it costs by how many are asked about, and not by how many there are.
const ENGAGED_ELSEWHERE: &str = "select driver_id, false from offers where ended_at is null and zone <> $1 and driver_id = any($2) \
     union all select passenger_id, false from offers where ended_at is null and zone <> $1 and passenger_id = any($2) \
     union all select driver_id, true from rides where ended_at is null and zone <> $1 and driver_id = any($2) \
     union all select passenger_id, true from rides where ended_at is null and zone <> $1 and passenger_id = any($2)";

/// Those of `users` whom other zones hold or have in a ride, each with whether it is a ride; by id.
pub(crate) async fn engaged_elsewhere(
    tx: &mut Tx,
    zone: Zone,
    users: &BTreeSet<UserId>,
) -> Result<BTreeMap<UserId, bool>, StoreError> {
    let mut engaged = BTreeMap::new();
    let mut add = |user: UserId, is_in_ride: bool| {
        if users.contains(&user) {
            *engaged.entry(user).or_insert(false) |= is_in_ride;
        }
    };
    let sees_rides = !streams::simulation::sabotage().no_ride_check;
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(ENGAGED_ELSEWHERE)
                .bind(i32::from(zone.number))
                .bind(column(users, |user| user.0))
                .fetch_all(pg)
                .await?;
            for row in &rows {
                add(UserId(row.try_get::<Uuid, _>(0)?), row.try_get(1)?);
            }
        }
        On::Memory(tables) => {
            let is_other = |of: Option<&u16>| of.copied().unwrap_or(0) != zone.number;
            let offers = tables.offers.values().filter(|o| o.ended.is_none());
            for offer in offers.filter(|o| is_other(tables.zone_of_offer.get(&o.match_id))) {
                add(offer.driver_id, false);
                add(offer.passenger_id, false);
            }
            let rides = tables.rides.values().filter(|r| r.ended_at.is_none() && sees_rides);
            for ride in rides.filter(|r| is_other(tables.zone_of_ride.get(&r.ride_id))) {
                add(ride.driver_id, true);
                add(ride.passenger_id, true);
            }
        }
    }
    Ok(engaged)
}

/// Inserts new offers of a zone. Returns those that were not inserted, because another zone has an offer of the driver or of the
/// passenger, or a ride of the driver. An offer of another transaction is waited for; a ride begins in the transaction that ends the
/// offer before it, so that whoever comes after that offer sees the ride.
pub(crate) async fn insert_offers(tx: &mut Tx, offers: &[Offer], zone: Zone) -> Result<Vec<MatchId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => insert_rows(pg, offers, zone).await,
        On::Memory(tables) => {
            Ok(offers.iter().filter(|o| !insert_in_memory(tables, o, zone)).map(|o| o.match_id).collect())
        }
    }
}

/// From now on the transaction waits no longer than 200 ms for another one, and then begins again. The first offers of all zones are
/// inserted in the order of their drivers, but later ones are not, and two zones may wait for each other.
pub(crate) async fn wait_briefly(tx: &mut Tx) -> Result<(), StoreError> {
    if let On::Postgres(pg) = tx.on() {
        sqlx::query("set local lock_timeout = '200ms'").execute(pg).await?;
    }
    Ok(())
}

async fn insert_rows(pg: &mut PgConnection, offers: &[Offer], zone: Zone) -> Result<Vec<MatchId>, StoreError> {
    // Zones that want the same drivers wait for each other in the order of these.
    let inserted = sqlx::query(
        "insert into offers (match_id, request_id, driver_id, passenger_id, found_at, expires_at, zone) \
         select m, r, d, p, f, e, $7 from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[], \
         $6::timestamptz[]) as u (m, r, d, p, f, e) order by d on conflict do nothing returning match_id",
    )
    .bind(column(offers, |o| o.match_id.0))
    .bind(column(offers, |o| o.request_id.0))
    .bind(column(offers, |o| o.driver_id.0))
    .bind(column(offers, |o| o.passenger_id.0))
    .bind(column(offers, |o| o.found_at))
    .bind(column(offers, |o| o.expires_at))
    .bind(i32::from(zone.number))
    .fetch_all(&mut *pg)
    .await?;
    let inserted = inserted.iter().map(|row| row.try_get::<Uuid, _>(0)).collect::<Result<BTreeSet<_>, _>>()?;
    let mut lost: Vec<MatchId> = offers.iter().map(|o| o.match_id).filter(|id| !inserted.contains(&id.0)).collect();
    // A statement of its own: it sees what was committed while the one before waited.
    let in_ride = sqlx::query(
        "delete from offers o where match_id = any($1) and exists (select 1 from rides r where r.driver_id = o.driver_id \
         and r.ended_at is null and r.zone <> $2) returning match_id",
    )
    .bind(inserted.into_iter().collect::<Vec<_>>())
    .bind(i32::from(zone.number))
    .fetch_all(&mut *pg)
    .await?;
    for row in &in_ride {
        lost.push(MatchId(row.try_get::<Uuid, _>(0)?));
    }
    Ok(lost)
}

fn insert_in_memory(tables: &mut Tables, offer: &Offer, zone: Zone) -> bool {
    let is_in_ride = tables.rides.values().any(|r| {
        r.driver_id == offer.driver_id
            && r.ended_at.is_none()
            && tables.zone_of_ride.get(&r.ride_id).copied().unwrap_or(0) != zone.number
    });
    if is_in_ride && !streams::simulation::sabotage().no_ride_check {
        return false;
    }
    let (by_driver, by_passenger) = (&mut tables.live_offer_of_driver, &mut tables.live_offer_of_passenger);
    if claim(by_driver, offer.driver_id, offer.match_id, "offers_one_live_a_driver").is_err() {
        return false;
    }
    if claim(by_passenger, offer.passenger_id, offer.match_id, "offers_one_live_a_passenger").is_err() {
        by_driver.remove(&offer.driver_id);
        return false;
    }
    tables.zone_of_offer.insert(offer.match_id, zone.number);
    tables.offers.insert(offer.match_id, offer.clone());
    true
}

/// Writes drivers as their beacons say, each with the zones around the place, unless a newer beacon was written. Returns for each that was
/// written the zones that are to know of it: of a driver on duty those around them, and those that knew them before.
pub(crate) async fn write_beacons(
    tx: &mut Tx,
    drivers: &[(Driver, ZoneSet)],
) -> Result<BTreeMap<UserId, ZoneSet>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "insert into drivers (user_id, active, vehicle_type, lat, lng, recorded_at, seen_at, located_at, device, zones) \
                 select * from unnest($1::uuid[], $2::bool[], $3::text[], $4::float8[], $5::float8[], $6::timestamptz[], \
                 $7::timestamptz[], $8::timestamptz[], $9::text[], $10::bigint[]) as u (id, a, v, lat, lng, r, s, l, d, z) \
                 order by id on conflict (user_id) do update \
                 set active = excluded.active, vehicle_type = excluded.vehicle_type, lat = excluded.lat, \
                 lng = excluded.lng, recorded_at = excluded.recorded_at, seen_at = excluded.seen_at, \
                 located_at = excluded.located_at, device = excluded.device, \
                 zones = case when drivers.active then drivers.zones | excluded.zones else excluded.zones end \
                 where drivers.recorded_at <= excluded.recorded_at returning user_id, zones",
            )
            .bind(column(drivers, |(d, _)| d.user_id.0))
            .bind(column(drivers, |(d, _)| d.active))
            .bind(column(drivers, |(d, _)| d.vehicle_type.as_str()))
            .bind(column(drivers, |(d, _)| d.location.lat))
            .bind(column(drivers, |(d, _)| d.location.lng))
            .bind(column(drivers, |(d, _)| d.recorded_at))
            .bind(column(drivers, |(d, _)| d.seen_at))
            .bind(column(drivers, |(d, _)| d.located_at))
            .bind(column(drivers, |(d, _)| d.device.clone()))
            .bind(column(drivers, |(_, zones)| zones.0.cast_signed()))
            .fetch_all(pg)
            .await?;
            rows.iter().map(|row| Ok((UserId(row.try_get::<Uuid, _>("user_id")?), zones(row)?))).collect()
        }
        On::Memory(tables) => {
            let mut written = BTreeMap::new();
            for (driver, near) in drivers {
                let before = tables.drivers.get(&driver.user_id);
                if before.is_some_and(|d| d.recorded_at > driver.recorded_at) {
                    continue;
                }
                let known = tables.zones_of_driver.get(&driver.user_id).copied().unwrap_or_default();
                let zones = if before.is_some_and(|d| d.active) { known.union(*near) } else { *near };
                tables.zones_of_driver.insert(driver.user_id, zones);
                tables.drivers.insert(driver.user_id, driver.clone());
                written.insert(driver.user_id, zones);
            }
            Ok(written)
        }
    }
}

/// Of drivers on duty who are near zones that may not know them: adds the zones to their rows. Returns those that did not know them.
pub(crate) async fn add_zones(
    tx: &mut Tx,
    drivers: &BTreeMap<UserId, ZoneSet>,
) -> Result<Vec<(Driver, ZoneSet)>, StoreError> {
    let mut added = Vec::new();
    match tx.on() {
        On::Postgres(pg) => {
            let rows =
                sqlx::query("select * from drivers where user_id = any($1) and active order by user_id for update")
                    .bind(column(drivers, |(id, _)| id.0))
                    .fetch_all(&mut *pg)
                    .await?;
            for row in &rows {
                let driver = read_driver(row)?;
                let new = drivers[&driver.user_id].without(zones(row)?);
                if !new.is_empty() {
                    added.push((driver, new));
                }
            }
            if !added.is_empty() {
                sqlx::query(
                    "update drivers set zones = zones | u.z from unnest($1::uuid[], $2::bigint[]) as u (id, z) where user_id = u.id",
                )
                .bind(column(&added, |(driver, _)| driver.user_id.0))
                .bind(column(&added, |(_, zones)| zones.0.cast_signed()))
                .execute(pg)
                .await?;
            }
        }
        On::Memory(tables) => {
            for (id, near) in drivers {
                let Some(driver) = tables.drivers.get(id).filter(|d| d.active) else { continue };
                let known = tables.zones_of_driver.get(id).copied().unwrap_or_default();
                if !near.without(known).is_empty() {
                    added.push((driver.clone(), near.without(known)));
                    tables.zones_of_driver.insert(*id, known.union(*near));
                }
            }
        }
    }
    Ok(added)
}

/// Ids of which the zone is looked up.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    pub offers: Vec<MatchId>,
    pub requests: Vec<RequestId>,
    pub rides: Vec<RideId>,
}

/// The zones of those that have rows.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    pub offers: BTreeMap<MatchId, u16>,
    pub requests: BTreeMap<RequestId, u16>,
    pub rides: BTreeMap<RideId, u16>,
}

pub(crate) async fn zones_of(tx: &mut Tx, ids: &Ids, partition: Partition) -> Result<Zones, StoreError> {
    let Ids { offers, requests, rides } = ids;
    if offers.is_empty() && requests.is_empty() && rides.is_empty() {
        return Ok(Zones::default());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select 1 as kind, match_id as id, zone from offers where match_id = any($1) \
                 union all select 2, request_id, zone from requests where request_id = any($2) \
                 union all select 3, ride_id, zone from rides where ride_id = any($3)",
            )
            .bind(column(offers, |id| id.0))
            .bind(column(requests, |id| id.0))
            .bind(column(rides, |id| id.0))
            .fetch_all(pg)
            .await?;
            let mut found = Zones::default();
            for row in &rows {
                let id: Uuid = row.try_get("id")?;
                let zone = zone(row, "zone")? % partition.zones();
                match row.try_get::<i32, _>("kind")? {
                    1 => _ = found.offers.insert(MatchId(id), zone),
                    2 => _ = found.requests.insert(RequestId(id), zone),
                    _ => _ = found.rides.insert(RideId(id), zone),
                }
            }
            Ok(found)
        }
        On::Memory(tables) => {
            let of = |known: bool, zone: Option<&u16>| known.then(|| zone.copied().unwrap_or(0) % partition.zones());
            let offer = |id: &MatchId| Some((*id, of(tables.offers.contains_key(id), tables.zone_of_offer.get(id))?));
            let request =
                |id: &RequestId| Some((*id, of(tables.requests.contains_key(id), tables.zone_of_request.get(id))?));
            let ride = |id: &RideId| Some((*id, of(tables.rides.contains_key(id), tables.zone_of_ride.get(id))?));
            Ok(Zones {
                offers: offers.iter().filter_map(offer).collect(),
                requests: requests.iter().filter_map(request).collect(),
                rides: rides.iter().filter_map(ride).collect(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Duration};
    use platform::{Store, World};
    use testing::{Backend, on_both_stores};

    use super::*;
    use crate::MIGRATIONS;
    use crate::engine::{EngineRows, OfferOutcome, Ride, rows};

    const NOW: DateTime<chrono::Utc> = DateTime::UNIX_EPOCH;

    on_both_stores!(a_driver_of_another_zone_is_lost);

    async fn store(backend: Backend) -> Store<Tables> {
        backend.store(&World::real(), "test", "matching", &MIGRATIONS).await
    }

    fn zone(number: u16) -> Zone {
        Zone { partition: Partition::new(2, 1_000), number }
    }

    fn offer(n: u128, driver: u128, passenger: u128) -> Offer {
        Offer {
            match_id: MatchId(Uuid::from_u128(n)),
            request_id: RequestId(Uuid::from_u128(n)),
            driver_id: UserId(Uuid::from_u128(driver)),
            passenger_id: UserId(Uuid::from_u128(passenger)),
            found_at: NOW,
            expires_at: NOW + Duration::seconds(15),
            accepted_at: None,
            ended: None,
        }
    }

    /// The rows that make a ride of an offer.
    fn ridden(offer: &Offer) -> EngineRows {
        let ride = Ride {
            ride_id: RideId(Uuid::from_u128(1_000)),
            match_id: offer.match_id,
            driver_id: offer.driver_id,
            passenger_id: offer.passenger_id,
            began_at: NOW,
            ended_at: None,
            driver_cancelled: false,
            expected_end: None,
        };
        let ended = Some((NOW, OfferOutcome::Ridden));
        EngineRows { offers: vec![Offer { ended, ..offer.clone() }], rides: vec![ride], ..EngineRows::default() }
    }

    async fn a_driver_of_another_zone_is_lost(backend: Backend) {
        let store = store(backend).await;
        let mut tx = store.begin().await.unwrap();
        let first = offer(1, 10, 20);
        assert_eq!(insert_offers(&mut tx, &[first.clone(), offer(2, 11, 21)], zone(0)).await.unwrap(), []);
        // The driver, the passenger, and neither.
        let (driver, passenger, other) = (offer(3, 10, 22), offer(4, 12, 21), offer(5, 13, 23));
        let lost = insert_offers(&mut tx, &[driver.clone(), passenger, other.clone()], zone(1)).await.unwrap();
        assert_eq!(lost, [driver.match_id, MatchId(Uuid::from_u128(4))]);
        let all = BTreeSet::from([first.driver_id, other.driver_id, other.passenger_id]);
        let engaged = engaged_elsewhere(&mut tx, zone(0), &all).await.unwrap();
        assert_eq!(engaged, BTreeMap::from([(other.driver_id, false), (other.passenger_id, false)]));
        let one = engaged_elsewhere(&mut tx, zone(0), &BTreeSet::from([other.passenger_id])).await.unwrap();
        assert_eq!(one, BTreeMap::from([(other.passenger_id, false)]));
        // In a ride of the other zone the driver is lost as well; for its own zone the engine knows.
        rows::write(&mut tx, &ridden(&first), zone(0)).await.unwrap();
        assert_eq!(insert_offers(&mut tx, std::slice::from_ref(&driver), zone(1)).await.unwrap(), [driver.match_id]);
        assert_eq!(insert_offers(&mut tx, &[offer(6, 14, 22)], zone(1)).await.unwrap(), []);
        assert!(engaged_elsewhere(&mut tx, zone(1), &all).await.unwrap()[&first.driver_id]);
        let ids = Ids { offers: vec![first.match_id, other.match_id, driver.match_id], ..Ids::default() };
        let found = zones_of(&mut tx, &ids, Partition::new(2, 1_000)).await.unwrap().offers;
        assert_eq!(found, BTreeMap::from([(first.match_id, 0), (other.match_id, 1)]));
    }

    /// On PostgreSQL, with 20,000 live rides and 5,000 live offers of other zones.
    #[tokio::test]
    async fn whom_other_zones_have_is_found_by_those_who_are_asked_about() {
        let store = store(Backend::Postgres).await;
        let mut tx = store.begin().await.unwrap();
        let On::Postgres(pg) = tx.on() else { unreachable!() };
        let id = "('00000000-0000-4000-8000-' || lpad(to_hex(n + $1), 12, '0'))::uuid";
        let rides = format!(
            "insert into rides (ride_id, match_id, driver_id, passenger_id, began_at, driver_cancelled, zone) \
             select {id}, {id}, {id}, ('10000000' || substr({id}::text, 9))::uuid, now(), false, 1 + n % 2 from generate_series(1, 20000) n"
        );
        sqlx::query(sqlx::AssertSqlSafe(rides)).bind(0).execute(&mut *pg).await.unwrap();
        let offers = format!(
            "insert into offers (match_id, request_id, driver_id, passenger_id, found_at, expires_at, zone) \
             select {id}, {id}, {id}, ('10000000' || substr({id}::text, 9))::uuid, now(), now(), 1 + n % 2 from generate_series(1, 5000) n"
        );
        sqlx::query(sqlx::AssertSqlSafe(offers)).bind(20_000).execute(&mut *pg).await.unwrap();
        for table in ["rides", "offers"] {
            sqlx::query(sqlx::AssertSqlSafe(format!("analyze {table}"))).execute(&mut *pg).await.unwrap();
        }
        // A thousand, of whom every tenth is in a ride elsewhere.
        let number = |n: u32| if n.is_multiple_of(10) { n } else { n + 1_000_000 };
        let user = |n: u32| UserId(format!("00000000-0000-4000-8000-{:012x}", number(n)).parse().unwrap());
        let users: BTreeSet<UserId> = (1..=1_000).map(user).collect();
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("explain (analyze, buffers) {ENGAGED_ELSEWHERE}")))
            .bind(0)
            .bind(column(&users, |user| user.0))
            .fetch_all(&mut *pg)
            .await
            .unwrap();
        let plan = rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n");
        println!("{}", plan.lines().filter(|line| !line.contains('{')).collect::<Vec<_>>().join("\n"));
        for index in ["rides_live_of_driver", "rides_live_of_passenger"] {
            assert!(plan.contains(index), "{index}: {plan}");
        }
        assert!(!plan.contains("Seq Scan") && !plan.contains("rides_live on") && !plan.contains("Workers"), "{plan}");
        let engaged = engaged_elsewhere(&mut tx, zone(0), &users).await.unwrap();
        assert_eq!((engaged.len(), engaged.values().all(|is_in_ride| *is_in_ride)), (100, true));
    }

    /// On PostgreSQL: two transactions at the same time.
    #[tokio::test]
    async fn who_waits_for_an_offer_of_another_zone_sees_the_ride_that_comes_of_it() {
        let store = store(Backend::Postgres).await;
        let (first, second) = (offer(1, 10, 20), offer(2, 10, 21));
        let mut tx = store.begin().await.unwrap();
        assert_eq!(insert_offers(&mut tx, std::slice::from_ref(&first), zone(0)).await.unwrap(), []);
        tx.commit().await.unwrap();
        let mut becomes_ride = store.begin().await.unwrap();
        rows::write(&mut becomes_ride, &ridden(&first), zone(0)).await.unwrap();
        let mut waits = store.begin().await.unwrap();
        let On::Postgres(pg) = waits.on() else { unreachable!() };
        sqlx::query("set local lock_timeout = '50ms'").execute(&mut *pg).await.unwrap();
        let waited = insert_offers(&mut waits, std::slice::from_ref(&second), zone(1)).await;
        assert!(matches!(waited, Err(StoreError::Serialization(_))), "{waited:?}");
        drop(waits);
        let mut waits = store.begin().await.unwrap();
        let offers = [second.clone()];
        let (lost, ()) = tokio::join!(insert_offers(&mut waits, &offers, zone(1)), async {
            becomes_ride.commit().await.unwrap();
        });
        assert_eq!(lost.unwrap(), [second.match_id]);
        waits.commit().await.unwrap();
        let mut tx = store.begin().await.unwrap();
        let ids = Ids { offers: vec![second.match_id], ..Ids::default() };
        let found = zones_of(&mut tx, &ids, Partition::new(2, 1_000)).await.unwrap();
        assert!(found.offers.is_empty(), "a lost offer leaves no row");
    }
}
