//! What others said of a person's rides. rides has it, and users asks for the mean to show it to the other party of a ride. A hint for a
//! screen: without a reply a person is shown with the mean that was known before, or without one.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::ids::UserId;

/// The subject of the request; rides subscribes in the queue group of the same name.
pub const RATINGS: &str = "rides.ratings";
/// How long users waits for the reply: frames wait for it.
pub const RATINGS_WAIT: Duration = Duration::from_millis(250);
/// The most users of one request; those after them are left out of the reply.
pub const RATINGS_USERS_MAX: usize = 512;

/// The request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RatingsRequest {
    /// Whose means.
    pub users: Vec<UserId>,
}

/// The mean of a user's ratings. The reply is a list of them; a user without a rating is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeanRating {
    /// Whose mean.
    pub user_id: UserId,
    /// 1 to 5, rounded to hundredths.
    #[schemars(range(min = 1, max = 5))]
    pub mean: f64,
    /// How many ratings it is the mean of.
    pub count: u32,
}
