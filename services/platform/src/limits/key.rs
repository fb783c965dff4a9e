//! Whose bucket it is, as one number. Pure.

use std::net::IpAddr;

use streams::UserId;
use streams::operators::Operator;
use uuid::Uuid;

use super::address::ClientAddress;
use crate::token::hash_of;

/// Whose bucket it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u128);

impl Key {
    /// The one bucket of everybody.
    pub const ALL: Self = Self(0);
}

impl From<Uuid> for Key {
    fn from(id: Uuid) -> Self {
        Self(id.as_u128())
    }
}

impl From<UserId> for Key {
    fn from(user: UserId) -> Self {
        Self(user.0.as_u128())
    }
}

/// By a hash of the name: names have no bound that would fit.
impl From<&Operator> for Key {
    fn from(operator: &Operator) -> Self {
        let hash = hash_of(operator.name.as_bytes());
        Self(hash.iter().take(16).fold(0, |key, byte| key << 8 | u128::from(*byte)))
    }
}

/// Of IPv6 the first 64 bits: whoever has one address of such a network has all of them.
impl From<ClientAddress> for Key {
    fn from(address: ClientAddress) -> Self {
        Self(match address.network() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits(),
        })
    }
}
