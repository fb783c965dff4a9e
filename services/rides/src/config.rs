//! What an operator can set.

use pricing::Tariffs;

use crate::payment::Provider;

#[derive(Debug, Clone)]
pub struct Config {
    pub tariffs: Tariffs,
    pub provider: Provider,
    /// Seconds after the arrival that a ride waits for its final distance. Then it is billed by the estimate.
    pub completion_wait_s: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self { tariffs: Tariffs::default(), provider: Provider::default(), completion_wait_s: 60 }
    }
}
