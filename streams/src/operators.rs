//! What a process that serves the operators' API asks of the service that owns it, and what a service answers. Each request is sealed
//! (`platform/operators`), so that only a process of the platform asks; an act is done once, however often it is asked for.

pub mod shown;

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::event::ids::{ActId, RequestId, RideId, UserId};
use crate::event::{Money, OperatorRole, Position, rfc3339};

/// Where users is asked; it subscribes in the queue group of the same name, as the next two.
pub const USERS_OPERATORS: &str = "users.operators";
/// Where rides is asked.
pub const RIDES_OPERATORS: &str = "rides.operators";
/// Where location is asked.
pub const LOCATION_OPERATORS: &str = "location.operators";
/// How long a question may take. Of a screen, the rest is shown without it.
pub const QUESTION_WAIT: Duration = Duration::from_secs(3);
/// How long an act may take. A requeue waits for a worker.
pub const ACT_WAIT: Duration = Duration::from_secs(18);
/// A question is answered within this time of its making, by clocks that agree within a minute: whoever stores it cannot ask it later.
pub const FRESH_FOR: Duration = Duration::from_secs(90);
/// The most characters of a reason.
pub const REASON_MAX: usize = 500;
/// The most characters of a note.
pub const NOTE_MAX: usize = 1_000;
/// The most notes of a ride.
pub const NOTES_MAX: usize = 200;
/// The most documents of a driver.
pub const DOCUMENTS_MAX: usize = 20;
/// The most rows of a page, and of each list of the map: a reply must fit into a message.
pub const PAGE_MAX: u32 = 200;
/// See [`PAGE_MAX`].
pub const MAP_MAX: u32 = 1_000;
/// The most points of a track that are shown.
pub const TRACK_POINTS_MAX: usize = 1_000;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// As ADMIN_TOKENS_FILE names them.
    pub name: String,
    /// What they may do. The process that is asked by HTTP has checked it.
    pub role: OperatorRole,
}

/// A request of an operator to a service; `R` is one of the three enums below.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked<R> {
    /// When it was asked.
    #[serde(with = "rfc3339")]
    pub at: DateTime<Utc>,
    /// For how long it may be done, seconds: not after the asker of an act has given it up. Clocks must agree within as long.
    #[serde(default = "fresh_for_s")]
    pub valid_s: u64,
    /// By whom.
    pub operator: Operator,
    /// What.
    pub request: R,
}

fn fresh_for_s() -> u64 {
    FRESH_FOR.as_secs()
}

/// What every act has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActHead {
    /// The same on every repeat.
    pub act_id: ActId,
    /// Why; one line of at most [`REASON_MAX`] characters.
    pub reason: Option<String>,
}

/// A part of the map, in degrees. If `west` is greater than `east`, it crosses the antimeridian.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names say it")]
pub struct MapBox {
    pub south: f64,
    pub west: f64,
    pub north: f64,
    pub east: f64,
}

impl MapBox {
    /// Whether the position is in it, its edges included.
    pub fn contains(&self, at: &Position) -> bool {
        let in_lng = match self.west <= self.east {
            true => (self.west..=self.east).contains(&at.lng),
            false => at.lng >= self.west || at.lng <= self.east,
        };
        in_lng && (self.south..=self.north).contains(&at.lat)
    }
}

/// The rows of one list of the map.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MapQuery {
    /// `None`: everywhere.
    pub within: Option<MapBox>,
    /// 1 to [`MAP_MAX`].
    pub limit: u32,
}

/// A paper without which nobody drives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Document {
    /// What it is.
    pub kind: DocumentKind,
    /// As it is written there.
    pub number: Option<String>,
    /// The last day on which it is valid, UTC.
    pub expires_on: NaiveDate,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum DocumentKind {
    Licence,
    Insurance,
    Registration,
    Inspection,
    Other,
}

impl DocumentKind {
    /// In the order of the contract's answers.
    pub const ALL: [Self; 5] = [Self::Licence, Self::Insurance, Self::Registration, Self::Inspection, Self::Other];

    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Licence => "licence",
            Self::Insurance => "insurance",
            Self::Registration => "registration",
            Self::Inspection => "inspection",
            Self::Other => "other",
        }
    }
}

/// What users is asked. The act, where there is one, comes first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of the routes")]
pub enum UsersRequest {
    LookUp {
        act: ActHead,
        phone: String,
    },
    User {
        user_id: UserId,
    },
    /// The parties of a ride.
    People {
        driver_id: UserId,
        passenger_id: UserId,
    },
    /// What users knows by this id.
    Find {
        id: Uuid,
    },
    /// Who was offered a search.
    Offers {
        request_id: RequestId,
    },
    Drivers {
        status: Option<String>,
        after: Option<UserId>,
        limit: u32,
    },
    Documents {
        user_id: UserId,
    },
    Searches {
        map: MapQuery,
    },
    SignOut {
        act: ActHead,
        user_id: UserId,
    },
    Approve {
        act: ActHead,
        user_id: UserId,
    },
    Suspend {
        act: ActHead,
        user_id: UserId,
        #[serde(default, with = "rfc3339::optional")]
        until: Option<DateTime<Utc>>,
    },
    SetDocuments {
        act: ActHead,
        user_id: UserId,
        documents: Vec<Document>,
    },
    Requeue {
        act: ActHead,
        sequence: u64,
    },
    Remove {
        act: ActHead,
        sequence: u64,
    },
}

/// What rides is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of the routes")]
pub enum RidesRequest {
    Rides {
        status: Option<String>,
        user: Option<UserId>,
        market: Option<String>,
        after: Option<RideId>,
        limit: u32,
    },
    Ride {
        ride_id: RideId,
    },
    /// What rides knows by this id.
    Find {
        id: Uuid,
    },
    Debts {
        user_id: UserId,
    },
    Live {
        map: MapQuery,
    },
    End {
        act: ActHead,
        ride_id: RideId,
    },
    Refund {
        act: ActHead,
        ride_id: RideId,
        amount: Money,
    },
    Note {
        act: ActHead,
        ride_id: RideId,
        text: String,
    },
}

/// What location is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of the routes")]
pub enum LocationRequest {
    Positions { map: MapQuery },
    Track { ride_id: RideId },
}

/// The answer: what the route shows, or why not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperatorReply {
    /// The body of a 200, or a part of it.
    Done(Value),
    /// The problem that the route answers.
    Refused {
        /// Of HTTP.
        status: u16,
        /// Stable.
        code: String,
        /// For people.
        message: String,
        /// The field at fault.
        field: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_may_cross_the_antimeridian() {
        let at = |lat, lng| Position { lat, lng };
        let plain = MapBox { south: -10.0, west: 20.0, north: 10.0, east: 30.0 };
        let across = MapBox { west: 170.0, east: -170.0, ..plain };
        for (position, in_plain, in_across) in [
            (at(0.0, 25.0), true, false),
            (at(10.0, 30.0), true, false),
            (at(10.1, 25.0), false, false),
            (at(0.0, 179.0), false, true),
            (at(0.0, -180.0), false, true),
            (at(0.0, 0.0), false, false),
        ] {
            assert_eq!((plain.contains(&position), across.contains(&position)), (in_plain, in_across), "{position:?}");
        }
    }
}
