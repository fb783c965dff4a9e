//! The buckets of limits that all processes share: taken from within a transaction, by the table and the rule of
//! `platform::limits`. Pure; the rows are in `rows.rs`.

pub(crate) mod rows;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use platform::limits::{Admission, Limit, Limits, Refused};

/// The key of a bucket's row: a keyed hash, because whose bucket it is may be a phone or an address.
pub(crate) type RowKey = [u8; 16];

/// Some buckets as they were read, and what was taken from them since.
#[derive(Debug, Clone)]
pub(crate) struct Buckets<'a> {
    limits: &'a Limits,
    now_us: i64,
    /// By limit: whose bucket it is, and when it is full again.
    tats: BTreeMap<Limit, (RowKey, i64)>,
}

impl<'a> Buckets<'a> {
    /// A full bucket for each key.
    pub(crate) fn full(
        limits: &'a Limits,
        keys: impl IntoIterator<Item = (Limit, RowKey)>,
        now: DateTime<Utc>,
    ) -> Self {
        let now_us = now.timestamp_micros();
        Self { limits, now_us, tats: keys.into_iter().map(|(limit, key)| (limit, (key, now_us))).collect() }
    }

    /// Whether there is a bucket of this limit.
    pub(crate) fn has(&self, limit: Limit) -> bool {
        self.tats.contains_key(&limit)
    }

    /// Takes one; a limit without a bucket here has no say.
    pub(crate) fn take(&mut self, limit: Limit) -> Result<(), Refused> {
        let (quota, now_us) = (self.limits.quota(limit), self.now_us);
        let Some((_, tat)) = self.tats.get_mut(&limit) else { return Ok(()) };
        match quota.take(Some(*tat), now_us, 1) {
            Admission::Allowed { tat_us } => {
                *tat = tat_us;
                Ok(())
            }
            Admission::Refused { wait_us } => Err(Refused::new(limit, wait_us)),
        }
    }

    /// Takes one, or what is left.
    pub(crate) fn take_up_to(&mut self, limit: Limit) {
        let quota = self.limits.quota(limit);
        if let Some((_, tat)) = self.tats.get_mut(&limit) {
            *tat = quota.take_up_to(Some(*tat), self.now_us, 1);
        }
    }

    /// Puts one back.
    pub(crate) fn put_back(&mut self, limit: Limit) {
        let quota = self.limits.quota(limit);
        if let Some((_, tat)) = self.tats.get_mut(&limit) {
            *tat = quota.put_back(Some(*tat), self.now_us, 1);
        }
    }

    /// The keys of the rows, in the order in which every transaction locks them.
    fn keys(&self) -> Vec<RowKey> {
        let mut keys: Vec<RowKey> = self.tats.values().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    fn tats(&self) -> impl Iterator<Item = (RowKey, DateTime<Utc>)> {
        self.tats
            .values()
            .map(|(key, tat)| (*key, DateTime::from_timestamp_micros(*tat).unwrap_or(DateTime::UNIX_EPOCH)))
    }

    #[cfg(test)]
    pub(crate) fn copy(&mut self, limit: Limit, from: &Self) {
        if let (Some(to), Some(from)) = (self.tats.get_mut(&limit), from.tats.get(&limit)) {
            to.1 = from.1;
        }
    }

    fn set(&mut self, key: &[u8], tat: DateTime<Utc>) {
        for (_, stored) in self.tats.values_mut().filter(|(known, _)| known == key) {
            *stored = tat.timestamp_micros();
        }
    }
}
