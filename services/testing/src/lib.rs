//! What the tests of several crates share: databases, nats-servers, both kinds of store, and the invariants of the whole.
//!
//! No crate depends on it but in its tests.

pub mod database;
pub mod http;
pub mod invariants;
pub mod jwt;
mod must_end;
pub mod nats;
pub mod scalability;
pub mod schema;
pub mod shipped;

pub use must_end::MustEnd;
use platform::{Store, Tables, World};

/// The two kinds of store that every operation is tested on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Tables in memory.
    Memory,
    /// A new database on the server of `TEST_DATABASE_URL`.
    Postgres,
}

impl Backend {
    /// A new, empty store of the service with this schema and these migrations, for a process called `pod`.
    ///
    /// # Panics
    /// If PostgreSQL does not answer: `scripts/test` starts one.
    pub async fn store<T: Tables>(
        self,
        world: &World,
        pod: &str,
        schema: &'static str,
        migrations: &sqlx::migrate::Migrator,
    ) -> Store<T> {
        match self {
            Self::Memory => Store::memory(world, &pod.into()),
            Self::Postgres => {
                let url = database::fresh().await;
                Store::postgres(world, &pod.into(), &url, schema, migrations, 8).await.expect("a migrated database")
            }
        }
    }
}

/// Two tests of each function named, `memory::NAME` (in paused time) and `postgres::NAME`; the function takes a
/// [`Backend`].
#[macro_export]
macro_rules! on_both_stores {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test(start_paused = true)] async fn $name() { super::$name($crate::Backend::Memory).await; })+
        }
        mod postgres {
            $(#[tokio::test] async fn $name() { super::$name($crate::Backend::Postgres).await; })+
        }
    };
}
