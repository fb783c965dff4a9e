//! The audit of RIDE_STREAM: verified by itself and against the tables, the tables rebuilt from it, and the stream repaired from the
//! event log.
//!
//! Only `repair`, `rebuild` and `recover` change anything, and nothing touches a durable consumer. The checks are pure ([`stream`],
//! [`database`], [`compare`], [`repair::plan`]). The commands around them read the stream in order and the tables in pages, so their
//! memory does not grow with the stream: they hold the rides that are live, and a page.

pub mod compare;
pub mod database;
mod findings;
mod positions;
pub mod rebuild;
mod recover;
mod refunds;
pub mod repair;
mod rows;
mod sources;
pub mod stream;
mod stream_copy;
mod verify;

use std::sync::Arc;

use platform::{Store, World};
use streams::Bus;
use streams::topology::Topology;

pub use self::findings::{Finding, Findings, LISTED_MAX};
use self::rebuild::Rebuilt;
use self::repair::Repaired;
use self::sources::Sources;
pub use self::sources::{AuditError, Progress, STREAM};
pub use self::verify::Report;
use crate::payment::Provider;
use crate::tables::Tables;

/// Audits the stream and the tables of one platform, which may run meanwhile.
#[derive(Debug)]
pub struct Audit {
    sources: Sources,
    /// How far the running command has got.
    pub progress: Arc<Progress>,
}

impl Audit {
    pub fn new(bus: &Bus, store: &Store<Tables>, world: &World) -> Self {
        let topology = Topology::rideshare();
        let max_age = topology.streams.iter().find(|s| s.name == STREAM).map_or_else(Default::default, |s| s.max_age);
        let progress = Arc::<Progress>::default();
        let sources = Sources {
            bus: bus.clone(),
            store: store.clone(),
            world: world.clone(),
            max_age: chrono::Duration::from_std(max_age).unwrap_or(chrono::Duration::MAX),
            progress: progress.clone(),
        };
        Self { sources, progress }
    }

    /// Verifies everything; changes nothing.
    ///
    /// # Errors
    /// [`AuditError`] if the audit could not read to the end. What is wrong with what it read is in the [`Report`].
    pub async fn verify(&self) -> Result<Report, AuditError> {
        Box::pin(verify::verify(&self.sources)).await
    }

    /// Publishes again what the event log has and the stream lacks.
    ///
    /// # Errors
    /// [`AuditError`] if it could not be done to the end. Another repair continues.
    pub async fn repair(&self) -> Result<Repaired, AuditError> {
        Box::pin(repair::repair(&self.sources)).await
    }

    /// Rebuilds the tables, which must be empty, from the stream. Asks `provider` for the result of each bill.
    ///
    /// # Errors
    /// [`AuditError::Refused`] if a table has rows; otherwise if it could not be done. Then nothing was written.
    pub async fn rebuild(&self, provider: Provider) -> Result<Rebuilt, AuditError> {
        Box::pin(rebuild::rebuild(&self.sources, provider)).await
    }

    /// Adds to the tables what the stream has and they lack, after a restore to an earlier moment. No service may run meanwhile. Asks
    /// `provider` for the result of each bill, and requests the capture of what is pending.
    ///
    /// # Errors
    /// [`AuditError`] if it could not be done. Then nothing was written, or all but some of these requests: repeat it.
    pub async fn recover(&self, provider: Provider) -> Result<Rebuilt, AuditError> {
        Box::pin(recover::recover(&self.sources, provider)).await
    }
}

#[cfg(test)]
mod tests;
