//! A tiny service's tables, with every kind of constraint that the real ones have.

use imbl::OrdMap;
use platform::{On, Store, StoreError, Transaction, World};
use sqlx::migrate::Migrator;
use uuid::Uuid;

use testing::Backend;

pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!("tests/migrations");

#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub(crate) struct Account {
    pub(crate) owner: Uuid,
    pub(crate) version: i32,
    pub(crate) amount: i64,
}

#[derive(Clone, Default)]
pub(crate) struct Tables {
    accounts: OrdMap<String, Account>,
}

pub(crate) async fn store(backend: Backend, world: &World) -> Store<Tables> {
    backend.store(world, "test", "accounts", &MIGRATIONS).await
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
            let statement = sqlx::query_as("select owner, version, amount from accounts where name = $1 for update");
            Ok(statement.bind(name).fetch_optional(&mut *pg).await?)
        }
        On::Memory(m) => Ok(m.accounts.get(name).cloned()),
    }
}
