//! What rides stores of a person besides rides, bills and the audit trail: users asks for it when the person exports their data, and has it
//! erased when the account has ended.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::event::ids::UserId;

/// The subject of the request; rides subscribes in the queue group of the same name.
pub const PERSON: &str = "rides.person";
/// How long users waits for the reply.
pub const PERSON_WAIT: Duration = Duration::from_secs(2);
/// The most entries of one page.
pub const PAGE_MAX: u32 = 200;
/// The most users of one request that erases.
pub const ERASED_MAX: usize = 200;

/// The request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PersonRequest {
    /// A page of what is stored: the reply is a [`PersonPage`].
    Export {
        /// Whose data, authenticated by users.
        user_id: UserId,
        /// Which of it.
        list: PersonList,
        /// `next` of the page before; `None` for the first page.
        after: Option<Uuid>,
    },
    /// Erases what belongs to people whose accounts have ended: the reply is `true`, or `false` while one of them has an open call for
    /// help: then the request is to be repeated later. A repeat has no effect.
    Erase {
        /// At most [`ERASED_MAX`].
        users: Vec<UserId>,
    },
}

/// The lists of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PersonList {
    /// Ratings that the person gave.
    RatingsGiven,
    /// Ratings that others gave to the person, without who and for which ride.
    RatingsReceived,
    /// Links of rides that the person made.
    Shares,
    /// Calls for help of the person.
    SosAlerts,
    /// Money that the person got back, with the operator's reason.
    Refunds,
}

impl PersonList {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::RatingsGiven, Self::RatingsReceived, Self::Shares, Self::SosAlerts, Self::Refunds];

    /// The field of the export.
    pub fn field(self) -> &'static str {
        match self {
            Self::RatingsGiven => "ratings_given",
            Self::RatingsReceived => "ratings_received",
            Self::Shares => "shares",
            Self::SosAlerts => "sos_alerts",
            Self::Refunds => "refunds",
        }
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PersonPage {
    /// As the person may have them.
    pub entries: Vec<Value>,
    /// Where the next page begins; `None` if this is the last one.
    pub next: Option<Uuid>,
}
