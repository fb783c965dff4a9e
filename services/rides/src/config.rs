//! What an operator can set.

use chrono::Duration;
use pricing::market;
use roads::Roads;

use crate::payment::Provider;
use crate::sos::sink::SosSink;

#[derive(Debug, Clone)]
pub struct Config {
    /// Where rides begin, and at what terms.
    pub markets: market::Current,
    pub provider: Provider,
    /// ROUTING_URL: who knows ways by road; `None`: they are estimated.
    pub roads: Option<Roads>,
    /// Seconds after the arrival that a ride waits for its final distance. Then it is billed by the estimate.
    pub completion_wait_s: i64,
    /// A final distance that needs more than so many metres a second is not billed.
    pub max_speed_mps: f64,
    /// `PUBLIC_URL`: where the links of shared rides begin, without a slash at the end; empty: they are paths.
    pub public_url: String,
    /// `SOS_WEBHOOK`: where calls for help go; `None`: nowhere.
    pub sos_sink: Option<SosSink>,
    /// `SOS_RETENTION_DAYS`: how long a call for help is stored after it was closed.
    pub sos_retention: Duration,
    /// `RATING_COMMENT_RETENTION_DAYS`: how long the comment of a rating is stored.
    pub comment_retention: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            markets: market::Current::default(),
            provider: Provider::default(),
            roads: None,
            completion_wait_s: 60,
            max_speed_mps: 70.0,
            public_url: String::new(),
            sos_sink: None,
            sos_retention: Duration::days(365),
            comment_retention: Duration::days(365),
        }
    }
}
