//! Devices and pushes in memory. It knows no transaction.

use chrono::{DateTime, Utc};
use imbl::{OrdMap, OrdSet};
use streams::UserId;
use uuid::Uuid;

use super::device::{PushDevice, token_hash};
use super::notice::Notice;

/// User, `seq` and device: the key of a push.
pub(crate) type PushKey = (UserId, u64, Uuid);

/// Both tables in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct PushRows {
    pub(super) devices: OrdMap<Uuid, PushDevice>,
    pub(super) of_user: OrdSet<(UserId, Uuid)>,
    /// The unique constraint on the token.
    pub(super) tokens: OrdMap<[u8; 32], Uuid>,
    pub(super) pushes: OrdMap<PushKey, PushRow>,
    pub(super) due: OrdSet<(DateTime<Utc>, PushKey)>,
}

#[derive(Debug, Clone)]
pub(super) struct PushRow {
    pub(super) event_id: String,
    pub(super) notice: Notice,
    pub(super) due_at: DateTime<Utc>,
    pub(super) tries: i32,
}

impl PushRows {
    pub(super) fn devices_of(&self, user: UserId) -> impl Iterator<Item = &PushDevice> {
        let ids = self.of_user.range((user, Uuid::nil())..=(user, Uuid::max()));
        ids.filter_map(|(_, id)| self.devices.get(id))
    }

    /// Inserts a push for each device of the user. Returns whether there is any.
    pub(crate) fn insert(
        &mut self,
        user: UserId,
        seq: u64,
        event_id: &str,
        notice: &Notice,
        due_at: DateTime<Utc>,
    ) -> bool {
        let devices: Vec<Uuid> = self.devices_of(user).map(|device| device.id).collect();
        for device in &devices {
            let row = PushRow { event_id: event_id.to_owned(), notice: notice.clone(), due_at, tries: 0 };
            self.pushes.insert((user, seq, *device), row);
            self.due.insert((due_at, (user, seq, *device)));
        }
        !devices.is_empty()
    }

    pub(super) fn remove(&mut self, key: PushKey) {
        if let Some(row) = self.pushes.remove(&key) {
            self.due.remove(&(row.due_at, key));
        }
    }

    pub(super) fn set_due(&mut self, key: PushKey, due_at: DateTime<Utc>, more_tries: i32) {
        if let Some(row) = self.pushes.get_mut(&key) {
            self.due.remove(&(row.due_at, key));
            (row.due_at, row.tries) = (due_at, row.tries + more_tries);
            self.due.insert((due_at, key));
        }
    }

    pub(super) fn remove_device(&mut self, id: Uuid) -> Option<PushDevice> {
        let device = self.devices.remove(&id)?;
        self.of_user.remove(&(device.user, id));
        self.tokens.remove(&token_hash(device.platform, &device.token));
        let keys: Vec<PushKey> = self.keys_of(device.user, u64::MAX).filter(|key| key.2 == id).collect();
        keys.into_iter().for_each(|key| self.remove(key));
        Some(device)
    }

    pub(super) fn keys_of(&self, user: UserId, up_to: u64) -> impl Iterator<Item = PushKey> {
        self.pushes.range((user, 0, Uuid::nil())..=(user, up_to, Uuid::max())).map(|(key, _)| *key)
    }

    /// Deletes the pushes of a user up to `seq`, and returns how many there were.
    pub(crate) fn remove_up_to(&mut self, user: UserId, seq: u64) -> u64 {
        let keys: Vec<PushKey> = self.keys_of(user, seq).collect();
        keys.iter().for_each(|key| self.remove(*key));
        keys.len() as u64
    }
}
