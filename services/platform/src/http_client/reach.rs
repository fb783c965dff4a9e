//! Which addresses a client may connect to. An address that a user names must not lead into the operator's own network, neither by
//! its number nor by a name that resolves to it; so the addresses are checked when a connection is made.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec;

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower::Service;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Every address: the operator named it.
    Anywhere,
    /// Public addresses alone: a user named it.
    Public,
    /// Public addresses and this machine: for development, where a user names a program of her own.
    PublicOrLoopback,
}

impl Reach {
    pub fn admits(self, address: IpAddr) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Public => is_public(address),
            Self::PublicOrLoopback => address.to_canonical().is_loopback() || is_public(address),
        }
    }

    /// False if the host of a URI is a number that is not admitted. A name is admitted: its addresses are checked later.
    pub fn admits_host(self, host: &str) -> bool {
        let number = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        number.parse().is_ok_and(|address| self.admits(address)) || number.parse::<IpAddr>().is_err()
    }
}

/// Whether the address belongs to the public internet: the special-purpose registries of IANA (RFC 6890) are left out.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocols = (a, b, c) == (192, 0, 0);
    let benchmarks = a == 198 && (18..20).contains(&b);
    !(a == 0
        || a >= 224
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || shared
        || protocols
        || benchmarks)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b) {
        // IPv4-mapped addresses, and NAT64 of them (RFC 6052).
        (0, 0) if (c, d, e, f) == (0, 0, 0, 0xffff) => embedded(g, h),
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => embedded(g, h),
        // 6to4 (RFC 3056).
        (0x2002, _) => embedded(b, c),
        // Protocol assignments, with Teredo and ORCHID, and documentation.
        (0x2001, 0..0x200 | 0xdb8) | (0x3fff, 0..0x1000) => false,
        // What else is global unicast.
        _ => a & 0xe000 == 0x2000,
    }
}

/// No address of the host may be connected to.
#[derive(Debug, Clone, Copy)]
pub(super) struct NotPublic;

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its address is not public: nothing is sent there")
    }
}

impl std::error::Error for NotPublic {}

/// The system's resolver, without the addresses that are not admitted.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    reach: Reach,
    system: GaiResolver,
}

impl Resolver {
    pub(super) fn new(reach: Reach) -> Self {
        Self { reach, system: GaiResolver::new() }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.system.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (reach, found) = (self.reach, self.system.call(name));
        Box::pin(async move {
            let (admitted, others): (Vec<_>, Vec<_>) = found.await?.partition(|address| reach.admits(address.ip()));
            if admitted.is_empty() && !others.is_empty() {
                return Err(NotPublic.into());
            }
            Ok(admitted.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_admitted() {
        let public = [
            "8.8.8.8",
            "1.1.1.1",
            "100.63.0.1",
            "172.32.0.1",
            "[2606:4700::1111]",
            "[::ffff:8.8.8.8]",
            "[2002:808:808::1]",
        ];
        let others = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "192.0.2.1",
            "224.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[::7f00:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::a00:1]",
            "[2002:a00:1::1]",
            "[2001::1]",
            "[2001:db8::1]",
            "[fc00::1]",
            "[fd12::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
        ];
        for host in public {
            assert!(Reach::Public.admits_host(host) && Reach::PublicOrLoopback.admits_host(host), "{host}");
        }
        for host in others {
            assert!(!Reach::Public.admits_host(host), "{host}");
            let loopback = ["127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]"].contains(&host);
            assert_eq!(Reach::PublicOrLoopback.admits_host(host), loopback, "{host}");
            assert!(Reach::Anywhere.admits_host(host));
        }
        assert!(Reach::Public.admits_host("localhost"), "a name is resolved first");
    }
}
