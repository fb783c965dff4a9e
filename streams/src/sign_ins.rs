//! Sign-ins that have ended: users tells every process of the platform, so that access tokens of an ended sign-in are refused
//! everywhere before they expire.
//!
//! The messages are core messages, delivered at most once. So users publishes an end at once, and again from another process if the first
//! one died, and every other process also asks for the list when it may have missed one. The body of both is JSON, sealed by a key that only the platform's processes have.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::ids::{SignInId, UserId};

/// A list of sign-ins that have just ended, a JSON array of [`EndedSignIn`]; every process subscribes.
pub const SIGN_INS_ENDED: &str = "users.sign_ins.ended";
/// The request for the list, a JSON [`EndedSignInsRequest`]; users subscribes in the queue group of the same name.
pub const SIGN_INS_LIST: &str = "users.sign_ins.list";
/// How long the requester waits for the list.
pub const SIGN_INS_LIST_WAIT: Duration = Duration::from_secs(2);
/// The most sign-ins of one message. A shorter list is the last page.
pub const SIGN_INS_PAGE: usize = 1_000;

/// A sign-in that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndedSignIn {
    /// The claim `sid` of its access tokens.
    pub sign_in_id: SignInId,
    /// Whose it was.
    pub user_id: UserId,
    /// Access tokens issued before this are refused; later there are none.
    pub ended_at: DateTime<Utc>,
}

/// Asks for the sign-ins that ended after `after`, in the order of time and id, [`SIGN_INS_PAGE`] at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndedSignInsRequest {
    /// The last of the page before.
    pub after: (DateTime<Utc>, SignInId),
}
