//! The service's settings, as the program hands them over.

use chrono::TimeDelta;
use pricing::market::{self, Market};
use roads::Roads;

use crate::account::DriverApproval;
use crate::push::config::PushConfig;
use crate::sign_in::delivery::OtpDelivery;
use crate::sign_in::phone::Countries;

#[derive(Debug, Clone)]
pub struct Config {
    /// How a one-time code reaches its phone.
    pub otp_delivery: OtpDelivery,
    /// `CODE_COUNTRIES`: to whose numbers codes are sent.
    pub code_countries: Countries,
    /// `MATCH_REQUEST_TTL_S`: how long a search stays open, in seconds.
    pub request_ttl_s: u32,
    /// `MARKETS_FILE`: where people are served.
    pub markets: market::Current,
    /// `ROUTING_URL`: how long the driver of a live ride needs by road; `None`: at the market's pace.
    pub roads: Option<Roads>,
    /// `DRIVER_APPROVAL`: who decides about a new driver.
    pub driver_approval: DriverApproval,
    /// `SIGN_IN_MAX_DAYS`: how long a sign-in may last, however often it is refreshed.
    pub sign_in_life: TimeDelta,
    /// `SUSPENSION_MEMORY_DAYS`: how long phone and plate of a suspended driver whose account ended are remembered, as hashes.
    pub suspension_memory: TimeDelta,
    /// How pushes are sent, and where.
    pub push: PushConfig,
    /// `TRACK_MAX_SPEED_MPS`, as the welcome names it: what moves faster is no track. location and rides apply it.
    pub track_max_speed_mps: f64,
    /// Sockets of all users on this pod.
    pub sockets_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            otp_delivery: OtpDelivery::default(),
            code_countries: Countries::default(),
            request_ttl_s: 300,
            markets: market::Current::default(),
            roads: None,
            driver_approval: DriverApproval::default(),
            sign_in_life: TimeDelta::days(90),
            suspension_memory: TimeDelta::days(365),
            push: PushConfig::default(),
            track_max_speed_mps: 70.0,
            sockets_max: 50_000,
        }
    }
}

impl Config {
    /// How long a search in this market stays open.
    pub(crate) fn request_ttl(&self, market: Option<&Market>) -> TimeDelta {
        let of_market = market.and_then(|market| market.request_ttl_s);
        TimeDelta::seconds(of_market.unwrap_or(self.request_ttl_s).into())
    }
}
