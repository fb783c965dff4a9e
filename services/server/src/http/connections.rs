//! How many connections are open, in all and by address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use platform::ClientAddress;
use platform::limits::Key;

/// The most open connections; more wait in the kernel's accept queue.
const CONNECTIONS_MAX: usize = 65_536;
/// Files for everything that is no connection of a client: NATS, PostgreSQL, logs.
const OTHER_FILES: usize = 256;

/// The most connections that fit into `open_files`, and the most of one address: as many as `by_address`, but never more than
/// half, so that no address can shut out all others.
pub(super) fn bounds(open_files: usize, by_address: usize) -> (usize, usize) {
    let all = open_files.saturating_sub(OTHER_FILES).clamp(16, CONNECTIONS_MAX);
    (all, by_address.min(all / 2).max(1))
}

/// The open connections of each address.
#[derive(Debug)]
pub(super) struct Connections {
    by_address_max: usize,
    open: Mutex<BTreeMap<Key, usize>>,
}

/// One open connection; dropped when it ends.
#[derive(Debug)]
pub(super) struct Open {
    connections: Arc<Connections>,
    key: Key,
}

impl Connections {
    pub(super) fn new(by_address_max: usize) -> Arc<Self> {
        Arc::new(Self { by_address_max, open: Mutex::default() })
    }

    /// `None` if this address has as many as it may have.
    pub(super) fn open(self: &Arc<Self>, peer: IpAddr) -> Option<Open> {
        let key = Key::from(ClientAddress(peer));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(key).or_default();
        if *count >= self.by_address_max {
            return None;
        }
        *count += 1;
        Some(Open { connections: self.clone(), key })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_so_many_connections_until_it_closes_one() {
        let connections = Connections::new(2);
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let first = connections.open(one).unwrap();
        let _second = connections.open(one).unwrap();
        assert!(connections.open(one).is_none());
        let _other = connections.open(other).unwrap();
        drop(first);
        let third = connections.open(one).unwrap();
        assert!(connections.open(one).is_none());
        drop((third, _second, _other));
        assert!(connections.open.lock().unwrap().is_empty());
    }

    #[test]
    fn an_address_never_has_more_than_half() {
        assert_eq!(bounds(4_096, 2_000), (3_840, 1_920));
        assert_eq!(bounds(1_048_576, 2_000), (65_536, 2_000));
        assert_eq!(bounds(256, 2_000), (16, 8));
    }
}
