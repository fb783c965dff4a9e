//! The rows of `driver_documents`.

use chrono::NaiveDate;
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use sqlx::postgres::PgRow;
use streams::UserId;
use streams::operators::{Document, DocumentKind};

use crate::tables::Tables;

fn read(row: &PgRow) -> Result<Document, StoreError> {
    let kind: &str = row.try_get("kind")?;
    let known = DocumentKind::ALL.into_iter().find(|known| known.as_str() == kind);
    let kind = known.ok_or_else(|| StoreError::Other(format!("unknown kind `{kind}` of a document")))?;
    Ok(Document { kind, number: row.try_get("number")?, expires_on: row.try_get("expires_on")? })
}

/// In the order in which they were recorded.
pub(crate) async fn of(tx: &mut Transaction<Tables>, driver: UserId) -> Result<Vec<Document>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows =
                sqlx::query("select kind, number, expires_on from driver_documents where user_id = $1 order by n")
                    .bind(driver.0)
                    .fetch_all(&mut *pg)
                    .await?;
            rows.iter().map(read).collect()
        }
        On::Memory(tables) => Ok(tables.documents.get(&driver).cloned().unwrap_or_default()),
    }
}

/// Puts these in the place of those that were there.
pub(crate) async fn put(
    tx: &mut Transaction<Tables>,
    driver: UserId,
    documents: &[Document],
) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("delete from driver_documents where user_id = $1").bind(driver.0).execute(&mut *pg).await?;
            for (n, document) in (0_i16..).zip(documents) {
                sqlx::query(
                    "insert into driver_documents (user_id, n, kind, number, expires_on) values ($1, $2, $3, $4, $5)",
                )
                .bind(driver.0)
                .bind(n)
                .bind(document.kind.as_str())
                .bind(&document.number)
                .bind(document.expires_on)
                .execute(&mut *pg)
                .await?;
            }
        }
        On::Memory(tables) => {
            tables.documents.remove(&driver);
            if !documents.is_empty() {
                tables.documents.insert(driver, documents.to_vec());
            }
        }
    }
    Ok(())
}

/// Whether a document of the driver has expired.
pub(crate) async fn has_expired(
    tx: &mut Transaction<Tables>,
    driver: UserId,
    today: NaiveDate,
) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select from driver_documents where user_id = $1 and expires_on < $2 limit 1")
                .bind(driver.0)
                .bind(today);
            Ok(row.fetch_optional(&mut *pg).await?.is_some())
        }
        On::Memory(tables) => {
            let documents = tables.documents.get(&driver);
            Ok(documents.is_some_and(|all| all.iter().any(|document| super::is_expired(document, today))))
        }
    }
}

/// At most `limit` drivers on duty of whom a document has expired, however long ago: it may be that nobody looked since.
pub(crate) async fn on_duty_with_expired(
    tx: &mut Transaction<Tables>,
    today: NaiveDate,
    limit: u32,
) -> Result<Vec<UserId>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select distinct d.user_id from driver_documents d join beacons b using (user_id) \
                 where d.expires_on < $1 and b.active order by d.user_id limit $2",
            )
            .bind(today)
            .bind(i64::from(limit))
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(UserId(row.try_get("user_id")?))).collect()
        }
        On::Memory(tables) => {
            let is_expired = |documents: &Vec<Document>| documents.iter().any(|one| super::is_expired(one, today));
            let expired = tables.documents.iter().filter(|(_, documents)| is_expired(documents));
            let beacons = &tables.presence.beacons;
            let on_duty = expired.filter(|(driver, _)| beacons.get(*driver).is_some_and(|beacon| beacon.active));
            Ok(on_duty.take(limit as usize).map(|(driver, _)| *driver).collect())
        }
    }
}
