//! The settings of push, as the program hands them over.

use std::time::Duration;

use platform::http_client::Reach;

pub use super::apns::ApnsConfig;
pub use super::fcm::FcmConfig;
pub use super::webpush::VapidConfig;

#[derive(Debug, Clone)]
pub struct PushConfig {
    /// To which addresses a user may have pushes posted.
    pub reach: Reach,
    /// The wait for an answer. A push without one is sent again, under the same id. At most 10 s, or a claim would not last.
    pub wait: Duration,
    /// Without one of these, nothing is sent by its platform.
    pub fcm: Option<FcmConfig>,
    pub apns: Option<ApnsConfig>,
    pub vapid: Option<VapidConfig>,
}

impl Default for PushConfig {
    fn default() -> Self {
        Self { reach: Reach::Public, wait: Duration::from_secs(10), fcm: None, apns: None, vapid: None }
    }
}
