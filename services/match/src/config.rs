//! The settings of match.

use std::time::Duration;

use pricing::market;
use roads::Roads;

use crate::engine::Rules;
use crate::engine::assign::Policy;
use crate::zones::{Partition, Zone};

#[derive(Debug, Clone)]
pub struct Config {
    /// MATCH_OFFER_TTL_S: how long a driver has to answer an offer.
    pub offer_ttl_s: u32,
    /// MATCH_REQUEST_TTL_S: how long a request waits for a driver.
    pub request_ttl_s: u32,
    /// MATCH_RADIUS_M: the farthest driver to whom a request is offered, great circle.
    pub radius_m: f64,
    /// MATCH_RADIUS_MAX_M: the same towards the end of the request's time, at least `radius_m`.
    pub radius_max_m: f64,
    /// MATCH_POLICY: how drivers are offered.
    pub policy: Policy,
    /// MATCH_WINDOW_MS: how long after its beginning a search may be held back.
    pub window_ms: u32,
    /// MATCH_RECORD_HOURS: how long what each step depended on is stored; 0: it is not recorded.
    pub record_hours: u32,
    /// MATCH_SHADOW_POLICY: a policy that sees every step and may not act.
    pub shadow_policy: Option<Policy>,
    /// MATCH_ZONES and MATCH_ZONE_KM: how the map is divided among the processes that match.
    pub partition: Partition,
    /// MARKETS_FILE and FARE_*: where requests are, and the fare estimate in an offer.
    pub markets: market::Current,
    /// ROUTING_URL: who knows how long drivers need by road; `None`: it is estimated.
    pub roads: Option<Roads>,
    /// A standby takes over once the active process has not renewed its lease for this long.
    pub lease_ttl: Duration,
    /// How often a process renews its leases, and shares zones with others; with one zone half as often.
    pub lease_renew: Duration,
    /// How often a standby tries to take the lease.
    pub lease_poll: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            offer_ttl_s: 15,
            request_ttl_s: 300,
            radius_m: 5_000.0,
            radius_max_m: 5_000.0,
            policy: Policy::default(),
            window_ms: 300_000,
            record_hours: 24,
            shadow_policy: None,
            partition: Partition::ONE,
            markets: market::Current::default(),
            roads: None,
            lease_ttl: Duration::from_secs(5),
            lease_renew: Duration::from_secs(1),
            lease_poll: Duration::from_millis(500),
        }
    }
}

impl Config {
    pub(crate) fn rules(&self, zone: Zone) -> Rules {
        Rules {
            offer_ttl: chrono::Duration::seconds(self.offer_ttl_s.into()),
            request_ttl: chrono::Duration::seconds(self.request_ttl_s.into()),
            radius_m: self.radius_m,
            radius_max_m: self.radius_max_m,
            markets: self.markets.get(),
            policy: self.policy,
            speed_mps: None,
            roads: self.roads.is_some(),
            zone,
            window: chrono::Duration::milliseconds(self.window_ms.into()),
        }
    }

    pub(crate) fn lease_ttl(&self) -> chrono::Duration {
        chrono::Duration::from_std(self.lease_ttl).unwrap_or(chrono::Duration::seconds(5))
    }

    /// Within which a driver may be offered any request.
    pub(crate) fn largest_radius_m(&self) -> f64 {
        let markets = self.markets.get();
        let of_markets = markets.iter_with_retired().map(|market| market.radii_m(self.radius_m, self.radius_max_m).1);
        of_markets.fold(self.radius_m.max(self.radius_max_m), f64::max)
    }
}
