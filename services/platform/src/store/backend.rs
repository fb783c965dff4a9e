//! What a store and its transactions share: where the tables are, and whose they are.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use imbl::OrdMap;
use sqlx::Postgres;
use streams::simulation::Faults;
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

use super::connections::Connections;
use crate::relay::row::{OutboxRow, RelayQueue};
use crate::spans::Spans;
use crate::world::World;

/// Rows of a table that one transaction purges.
pub(super) const PURGE_PAGE: i64 = 10_000;

/// The tables of one service in memory. A transaction works on a copy, so cloning them must be cheap.
pub trait Tables: Clone + Default + Send + Sync + 'static {}

impl<T: Clone + Default + Send + Sync + 'static> Tables for T {}

pub(super) enum Backend<T> {
    Postgres { pool: Connections, relay_pool: Connections },
    Memory(Arc<Mutex<Committed<T>>>),
}

/// The committed state of the memory store. One transaction at a time holds its lock.
#[derive(Clone, Default)]
pub(super) struct Committed<T> {
    pub(super) tables: T,
    pub(super) inbox: OrdMap<(String, String), DateTime<Utc>>,
    /// Unpublished rows only: after a crash this memory is gone, so a published row could never be published again.
    pub(super) outbox: OrdMap<i64, OutboxRow>,
    pub(super) last_seq: i64,
    /// By what they are about; see `traces.rs`.
    pub(super) traces: OrdMap<Uuid, (String, DateTime<Utc>)>,
}

impl<T> Clone for Backend<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Postgres { pool, relay_pool } => {
                Self::Postgres { pool: pool.clone(), relay_pool: relay_pool.clone() }
            }
            Self::Memory(shared) => Self::Memory(shared.clone()),
        }
    }
}

/// The work of one transaction.
pub(super) enum Work<T> {
    Postgres(Box<sqlx::Transaction<'static, Postgres>>),
    Memory(Box<Draft<T>>),
}

/// A copy of everything, swapped in at commit.
pub(super) struct Draft<T> {
    pub(super) draft: Committed<T>,
    pub(super) committed: OwnedMutexGuard<Committed<T>>,
}

/// The process that a store works for.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) world: World,
    pub(super) pod: Arc<str>,
    pub(super) relay_queue: RelayQueue,
    /// What a simulation makes fail for this process.
    pub(super) faults: Faults,
    pub(super) spans: Spans,
}
