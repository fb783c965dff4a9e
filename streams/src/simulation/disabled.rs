//! A build without the feature `simulation`: nothing fails on purpose. `enabled.rs` says what the methods mean.

use std::time::Duration;

use uuid::Uuid;

use super::fault::{Fault, Sabotage};
use crate::bus::message::{BusError, Delivered};

/// Nothing is switched off.
#[inline(always)]
pub const fn sabotage() -> Sabotage {
    Sabotage::NONE
}

/// No faults; zero-sized.
#[derive(Debug, Clone, Default)]
pub struct Faults(());

impl Faults {
    /// Returns at once.
    #[inline(always)]
    pub async fn crash_point(&self) {}

    /// Always false.
    #[inline(always)]
    pub const fn occurs(&self, _fault: Fault) -> bool {
        false
    }

    /// Returns at once.
    ///
    /// # Errors
    /// None.
    #[inline(always)]
    pub async fn reach_store(&self) -> Result<(), String> {
        Ok(())
    }

    /// Returns at once, without a call of `release`.
    ///
    /// # Errors
    /// None.
    #[inline(always)]
    pub async fn in_transaction(&self, _release: impl FnOnce()) -> Result<(), String> {
        Ok(())
    }

    /// Returns at once.
    #[inline(always)]
    pub async fn locked_rows(&self, _entities: impl Iterator<Item = Uuid> + Clone + Send) {}

    #[inline(always)]
    pub(crate) async fn hops(&self, _count: usize) {}

    #[inline(always)]
    pub(crate) fn add_hops(&self, _count: usize) {}

    #[inline(always)]
    pub(crate) async fn not_busy(&self) {}

    #[inline(always)]
    pub(crate) async fn reach_bus(&self) -> Result<(), BusError> {
        Ok(())
    }

    #[inline(always)]
    pub(crate) async fn publish<T>(&self, publish: impl Future<Output = Result<T, BusError>>) -> Result<T, BusError> {
        publish.await
    }

    #[inline(always)]
    pub(crate) async fn deliver<H>(
        &self,
        batch: Vec<Delivered<H>>,
        _redeliver_after: impl Fn(&Delivered<H>, Duration),
    ) -> Vec<Delivered<H>> {
        batch
    }

    #[inline(always)]
    pub(crate) async fn acknowledge(&self) -> Result<bool, BusError> {
        Ok(true)
    }

    #[inline(always)]
    pub(crate) async fn request<T>(&self, request: impl Future<Output = Result<T, BusError>>) -> Result<T, BusError> {
        request.await
    }
}

const _: () = assert!(size_of::<Faults>() == 0, "a build without the simulation has no faults");
