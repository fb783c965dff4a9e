//! Addresses of clients as limits see them: behind trusted proxies the one that the proxy names, and of IPv6 the network.
//! Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The address of a client, or of the first proxy on its way that is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientAddress(pub IpAddr);

impl Default for ClientAddress {
    /// Of a client without a socket: one address for all of them.
    fn default() -> Self {
        Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

impl ClientAddress {
    /// The address itself, or the /64 of IPv6. An IPv4 address within IPv6 is that IPv4 address.
    pub fn network(self) -> IpAddr {
        match self.0.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
            v4 => v4,
        }
    }
}

/// The networks (CIDR) whose `X-Forwarded-For` is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Network>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn contains(self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                same_prefix(network.to_bits().into(), ip.to_bits().into(), self.bits + 96)
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => same_prefix(network.to_bits(), ip.to_bits(), self.bits),
            _ => false,
        }
    }
}

/// Whether the first `bits` of 128 are the same.
fn same_prefix(a: u128, b: u128, bits: u32) -> bool {
    (a ^ b).checked_shr(128 - bits).unwrap_or(0) == 0
}

/// Networks with commas, as in `10.0.0.0/8, 127.0.0.1, fd00::/8`.
impl FromStr for TrustedProxies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let networks = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| {
            let wrong = || format!("`{part}` is no network: use CIDR, as in 10.0.0.0/8 or fd00::/8");
            let (address, bits) = part.split_once('/').map_or((part, None), |(address, bits)| (address, Some(bits)));
            let address: IpAddr = address.parse().map_err(|_| wrong())?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Ok(most), str::parse).map_err(|_| wrong())?;
            if bits > most { Err(wrong()) } else { Ok(Network { address, bits }) }
        });
        networks.collect::<Result<_, _>>().map(Self)
    }
}

impl TrustedProxies {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(ip))
    }

    /// The client behind `peer`. Each proxy appends whom it received the request from, so that the list is believed from its
    /// end, as far as trusted proxies wrote it. What a client wrote in front of that is not looked at.
    pub fn client<'a>(&self, peer: IpAddr, forwarded_for: impl DoubleEndedIterator<Item = &'a str>) -> ClientAddress {
        let mut client = peer;
        let mut hops = forwarded_for.rev().flat_map(|value| value.rsplit(','));
        while self.contains(client) {
            match hops.next().and_then(address_of_hop) {
                Some(hop) => client = hop,
                // Nobody forwarded it, or the hop is no address: the proxy itself is all that is known.
                None => break,
            }
        }
        ClientAddress(client.to_canonical())
    }
}

/// An address, with or without a port.
fn address_of_hop(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let plain = hop.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(hop, |(address, _)| address);
    plain
        .parse()
        .ok()
        .or_else(|| plain.rsplit_once(':').and_then(|(address, _)| address.parse::<Ipv4Addr>().ok().map(IpAddr::V4)))
}
