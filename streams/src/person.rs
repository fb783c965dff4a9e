//! What rides stores of a person besides rides, bills and the audit trail: users asks for it when the person exports their data, and has it
//! erased when the account has ended.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::event::ids::{RideId, UserId};
use crate::event::{Position, rfc3339};

/// The subject of the request; rides subscribes in the queue group of the same name.
pub const PERSON: &str = "rides.person";
/// How long users waits for the reply.
pub const PERSON_WAIT: Duration = Duration::from_secs(2);
/// The most entries of one page.
pub const PAGE_MAX: u32 = 200;
/// The most users of one request that erases.
pub const ERASED_MAX: usize = 200;

/// The request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
}

impl PersonList {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::RatingsGiven, Self::RatingsReceived, Self::Shares, Self::SosAlerts];

    /// The field of the export.
    pub fn field(self) -> &'static str {
        match self {
            Self::RatingsGiven => "ratings_given",
            Self::RatingsReceived => "ratings_received",
            Self::Shares => "shares",
            Self::SosAlerts => "sos_alerts",
        }
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PersonPage {
    /// As the person may have them: [`RatingGiven`], [`RatingReceived`], [`ShareMade`] or [`SosRaised`].
    pub entries: Vec<Value>,
    /// Where the next page begins; `None` if this is the last one.
    pub next: Option<Uuid>,
}

/// A rating that the person gave.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct RatingGiven {
    /// Of whose other party.
    pub ride_id: RideId,
    /// 1 to 5.
    #[schemars(range(min = 1, max = 5))]
    pub stars: u8,
    /// `None` without one.
    pub comment: Option<String>,
    /// When.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub at: DateTime<Utc>,
}

/// A rating of the person: without the ride, and with the month alone, because both would say who gave it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct RatingReceived {
    /// 1 to 5.
    #[schemars(range(min = 1, max = 5))]
    pub stars: u8,
    /// `None` without one.
    pub comment: Option<String>,
    /// Such as `2026-11`.
    #[schemars(regex(pattern = "^[0-9]{4}-[0-9]{2}$"))]
    pub month: String,
}

/// A link that the person made.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ShareMade {
    /// Of the link.
    pub share_id: Uuid,
    /// What it shows.
    pub ride_id: RideId,
    /// When it was made.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub created_at: DateTime<Utc>,
    /// When it ends, at the latest.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub expires_at: DateTime<Utc>,
}

/// A call for help of the person.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct SosRaised {
    /// Of the call.
    pub sos_id: Uuid,
    /// In which ride.
    pub ride_id: RideId,
    /// When.
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    pub raised_at: DateTime<Utc>,
    /// What the person wrote.
    pub note: Option<String>,
    /// Where, as the person said.
    pub location: Option<Position>,
    /// When an operator closed it.
    #[serde(with = "rfc3339::optional")]
    #[schemars(with = "Option<DateTime<Utc>>")]
    pub closed_at: Option<DateTime<Utc>>,
}
