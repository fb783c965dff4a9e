//! A migration that needs a lock which somebody holds: it waits briefly, so that nobody waits behind it for long, and tries again.

use std::borrow::Cow;

use platform::{On, Retry, Store, StoreError, World};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Connection, PgConnection, SqlStr};

use crate::accounts::{MIGRATIONS, Tables};

/// The migrations of accounts and one more.
fn with_one_more() -> Migrator {
    let sql = SqlStr::from_static("alter table accounts add column note text");
    let more = Migration::new(102, Cow::Borrowed("note"), MigrationType::Simple, sql, false);
    let all = MIGRATIONS.iter().cloned().chain([more]).collect();
    Migrator { migrations: Cow::Owned(all), ..Migrator::DEFAULT }
}

#[tokio::test]
async fn a_migration_gives_up_its_place_in_the_queue_of_a_lock_and_tries_again() {
    let (url, world) = (testing::database::fresh().await, World::real());
    let pod = "test".into();
    drop(Store::<Tables>::postgres(&world, &pod, &url, "accounts", &MIGRATIONS, 2).await.unwrap());
    let mut holder = PgConnection::connect(&url).await.unwrap();
    let mut open = holder.begin().await.unwrap();
    sqlx::query("select * from accounts.accounts").execute(&mut *open).await.unwrap();

    let migrations = with_one_more();
    let migrate = Store::<Tables>::postgres(&world, &pod, &url, "accounts", &migrations, 2);
    let others = async {
        // A reader that comes while the migration waits for the lock stands behind it, and goes on when the migration gives up.
        let mut reader = PgConnection::connect(&url).await.unwrap();
        let waits =
            "select exists (select from pg_locks where not granted and relation = 'accounts.accounts'::regclass)";
        while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut reader).await.unwrap() {
            tokio::task::yield_now().await;
        }
        sqlx::query("select * from accounts.accounts").execute(&mut reader).await.unwrap();
        open.rollback().await.unwrap();
    };
    let (migrated, ()) = tokio::join!(migrate, others);
    migrated.unwrap();
    let notes: i64 =
        sqlx::query_scalar("select count(note) from accounts.accounts").fetch_one(&mut holder).await.unwrap();
    assert_eq!(notes, 0);
}

#[tokio::test]
async fn a_column_that_a_newer_version_adds_stops_no_running_process() {
    let (url, world) = (testing::database::fresh().await, World::real());
    let store = Store::<Tables>::postgres(&world, &"test".into(), &url, "accounts", &MIGRATIONS, 2).await.unwrap();
    let read = async || {
        let read = async |mut tx: platform::Transaction<Tables>| {
            let On::Postgres(pg) = tx.on() else { unreachable!() };
            sqlx::query("select * from accounts where name = '1'")
                .fetch_optional(&mut *pg)
                .await
                .map_err(StoreError::from)?;
            Ok::<_, StoreError>(())
        };
        store.transact(Retry::Serialization, read).await
    };
    read().await.unwrap();
    let mut other = PgConnection::connect(&url).await.unwrap();
    sqlx::query("alter table accounts.accounts add column note text").execute(&mut other).await.unwrap();
    read().await.unwrap();
}
