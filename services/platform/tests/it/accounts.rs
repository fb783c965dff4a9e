//! A tiny service's tables, with every kind of constraint that the real ones have.

use imbl::OrdMap;
use platform::{On, Store, StoreError, Transaction, World};
use sqlx::Row;
use sqlx::migrate::Migrator;
use uuid::Uuid;

use testing::database;

pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!("tests/migrations");

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Account {
    pub(crate) owner: Uuid,
    pub(crate) version: i32,
    pub(crate) amount: i64,
}

#[derive(Clone, Default)]
pub(crate) struct Tables {
    accounts: OrdMap<String, Account>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Memory,
    Postgres,
}

pub(crate) async fn store(kind: Kind, world: &World) -> Store<Tables> {
    let pod = "test".into();
    match kind {
        Kind::Memory => Store::memory(world, &pod),
        Kind::Postgres => {
            let url = database::fresh().await;
            Store::postgres(world, &pod, &url, "accounts", &MIGRATIONS, 4).await.unwrap()
        }
    }
}

fn conflict(constraint: &str) -> StoreError {
    StoreError::Conflict { constraint: constraint.to_owned() }
}

pub(crate) async fn open(tx: &mut Transaction<Tables>, name: &str, owner: Uuid, amount: i64) -> Result<(), StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            sqlx::query("insert into accounts (name, owner, version, amount) values ($1, $2, 1, $3)")
                .bind(name)
                .bind(owner)
                .bind(amount)
                .execute(&mut *pg)
                .await?;
        }
        On::Memory(m) => {
            let accounts = &mut m.accounts;
            if accounts.contains_key(name) {
                return Err(conflict("accounts_pkey"));
            }
            if amount < 0 {
                return Err(conflict("accounts_amount_positive"));
            }
            accounts.insert(name.to_owned(), Account { owner, version: 1, amount });
        }
    }
    Ok(())
}

/// False if the account is not the owner's or has another version by now.
pub(crate) async fn add(
    tx: &mut Transaction<Tables>,
    name: &str,
    owner: Uuid,
    version: i32,
    amount: i64,
) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let done = sqlx::query(
                "update accounts set amount = amount + $4, version = version + 1 \
                 where name = $1 and owner = $2 and version = $3",
            )
            .bind(name)
            .bind(owner)
            .bind(version)
            .bind(amount)
            .execute(&mut *pg)
            .await?;
            Ok(done.rows_affected() == 1)
        }
        On::Memory(m) => {
            let found = m.accounts.get_mut(name).filter(|a| a.owner == owner && a.version == version);
            let Some(account) = found else { return Ok(false) };
            if account.amount + amount < 0 {
                return Err(conflict("accounts_amount_positive"));
            }
            account.amount += amount;
            account.version += 1;
            Ok(true)
        }
    }
}

pub(crate) async fn find(tx: &mut Transaction<Tables>, name: &str) -> Result<Option<Account>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select owner, version, amount from accounts where name = $1 for update")
                .bind(name)
                .fetch_optional(&mut *pg)
                .await?;
            Ok(row
                .map(|r| {
                    Ok::<_, sqlx::Error>(Account {
                        owner: r.try_get(0)?,
                        version: r.try_get(1)?,
                        amount: r.try_get(2)?,
                    })
                })
                .transpose()?)
        }
        On::Memory(m) => Ok(m.accounts.get(name).cloned()),
    }
}
