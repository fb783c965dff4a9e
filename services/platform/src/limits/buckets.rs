//! The buckets of one process, bounded in number. Pure: the caller passes the time.

use std::collections::{BTreeMap, BTreeSet};

use super::Key;
use super::gcra::{Admission, Quota};
use super::table::Limit;

/// Buckets that are not full, of all limits together: about 16 MB.
pub(super) const KEYS_MAX: usize = 100_000;

/// Only buckets that are not full are here. When there are too many, those that will be full first are forgotten.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    tats: BTreeMap<(Limit, Key), i64>,
    /// The same, by the time at which they are full.
    by_tat: BTreeSet<(i64, Limit, Key)>,
}

impl Buckets {
    pub(super) fn take(&mut self, limit: Limit, key: Key, quota: Quota, n: u32, now_us: i64) -> Admission {
        self.forget_full(now_us);
        let known = self.tats.get(&(limit, key)).copied();
        let admission = quota.take(known, now_us, n);
        if let Admission::Allowed { tat_us } = admission {
            if let Some(known) = known {
                self.by_tat.remove(&(known, limit, key));
            }
            self.tats.insert((limit, key), tat_us);
            self.by_tat.insert((tat_us, limit, key));
        }
        admission
    }

    /// Forgets at most two buckets that are full again, and one more if there are too many: each call adds at most one.
    fn forget_full(&mut self, now_us: i64) {
        for n in 0..3 {
            let Some(&(tat_us, limit, key)) = self.by_tat.first() else { return };
            let is_full = tat_us <= now_us && n < 2;
            if !is_full && self.tats.len() < KEYS_MAX {
                return;
            }
            self.by_tat.remove(&(tat_us, limit, key));
            self.tats.remove(&(limit, key));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        debug_assert_eq!(self.tats.len(), self.by_tat.len());
        self.tats.len()
    }
}
