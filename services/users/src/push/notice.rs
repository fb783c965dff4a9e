//! Which events matter on a lock screen, to whom, for how long, and what is shown: one table. Pure.
//!
//! A push goes through somebody else's servers and is read by whoever sees the phone. So it has ids and fixed texts, and nothing
//! personal: no name, no phone, no place, no plate, no PIN, no amount. The app fetches what it shows.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Map, Value};
use streams::event::{ActKind, rfc3339};
use streams::{Subject, UserId};
use uuid::Uuid;

use crate::mailbox::NewEntry;

/// Who receives a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Driver,
    Passenger,
}

impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Passenger => "passenger",
        }
    }
}

/// How long a notice is worth something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// After the event, in seconds.
    S(i64),
    /// Until `expires_at` in the event's body.
    UntilExpiry,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Wakes the phone.
    pub(crate) urgent: bool,
    pub(crate) life: Life,
    pub(crate) title: &'static str,
    pub(crate) body: &'static str,
}

const fn kind(urgent: bool, life: Life, title: &'static str, body: &'static str) -> Option<Kind> {
    Some(Kind { urgent, life, title, body })
}

/// What the event's body decides beside subject and role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Detail<'a> {
    /// `reason` of match.rejected.
    pub(crate) reason: &'a str,
    /// `by` of ride.cancelled.
    pub(crate) by: &'a str,
    pub(crate) search_continues: bool,
    /// The notice that a search ends soon.
    pub(crate) is_near_end: bool,
}

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

/// The table. `None`: nobody has to be woken by it.
pub(crate) fn kind_of(subject: Subject, role: Role, detail: Detail<'_>) -> Option<Kind> {
    use Role::{Driver, Passenger};
    match (subject, role) {
        (Subject::MatchFound, Driver) => {
            kind(true, Life::UntilExpiry, "New ride request", "Open the app to accept it in time.")
        }
        // ride.pickup takes its place within a moment: the same topic.
        (Subject::MatchAccepted, Passenger) => {
            kind(true, Life::S(10 * MINUTE), "Driver found", "A driver has accepted your request.")
        }
        (Subject::MatchRejected, Driver) => match detail.reason {
            "cancelled" => {
                kind(false, Life::S(5 * MINUTE), "Request withdrawn", "The passenger does not search any more.")
            }
            "superseded" => {
                kind(true, Life::S(10 * MINUTE), "No ride", "The ride that you accepted did not come about.")
            }
            _ => None,
        },
        (Subject::RidePickup, Driver) => kind(true, Life::S(10 * MINUTE), "Ride confirmed", "Drive to the pickup."),
        (Subject::RidePickup, Passenger) => {
            kind(true, Life::S(10 * MINUTE), "Driver on the way", "Open the app to see where.")
        }
        (Subject::RideWaiting, Passenger) => {
            kind(true, Life::S(15 * MINUTE), "Your driver is here", "Please come to the pickup.")
        }
        (Subject::RideStarted, Passenger) => kind(false, Life::S(HOUR), "Ride started", "Not your ride? Open the app."),
        (Subject::RideCompleted, Driver) => {
            kind(false, Life::S(DAY), "Ride completed", "Open the app to see what you earned.")
        }
        (Subject::RideCompleted, Passenger) => {
            kind(false, Life::S(DAY), "Ride completed", "Open the app to see the receipt.")
        }
        (Subject::RideCancelled, Driver) if detail.by != "driver" => {
            kind(true, Life::S(HOUR), "Ride cancelled", "Open the app for your next ride.")
        }
        (Subject::RideCancelled, Passenger) if detail.by != "passenger" => {
            let next =
                if detail.search_continues { "We are looking for another driver." } else { "Open the app to see why." };
            kind(true, Life::S(HOUR), "Ride cancelled", next)
        }
        (Subject::UserFinder, Passenger) if detail.is_near_end => {
            kind(true, Life::UntilExpiry, "No driver yet", "Your search ends soon. Open the app to search on.")
        }
        // Who answered, or drives, has the app in hand; beacons, places and money are nobody's alarm.
        _ => None,
    }
}

/// A push of one event for one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) urgent: bool,
    /// A later notice of the same topic takes its place: the match, from the offer to the end of the ride, or the search.
    pub(crate) topic: Uuid,
    pub(crate) expires_at: DateTime<Utc>,
    /// An object of texts.
    pub(crate) message: String,
}

#[derive(Default, Deserialize)]
struct Body {
    driver_id: Option<UserId>,
    match_id: Option<Uuid>,
    request_id: Option<Uuid>,
    ride_id: Option<Uuid>,
    expires_at: Option<DateTime<Utc>>,
    expires_in_s: Option<Value>,
    reason: Option<String>,
    by: Option<String>,
    search_continues: Option<bool>,
}

/// Whether any event of this subject is pushed to anybody: the bodies of the others are not read.
fn may_matter(subject: Subject) -> bool {
    let is_of_nobody = matches!(
        subject,
        Subject::UserBeacon | Subject::LocationUpdate | Subject::LocationAggregate | Subject::PaymentCapture
    );
    // What operators did is in no mailbox.
    !is_of_nobody && !ActKind::ALL.iter().any(|act| act.subject() == subject)
}

/// The push of an entry; `None` if it does not matter on a lock screen.
pub(crate) fn of_entry(entry: &NewEntry) -> Option<Notice> {
    if !may_matter(entry.subject) {
        return None;
    }
    let body: Body = serde_json::from_str(&entry.body).ok()?;
    let role = if body.driver_id == Some(entry.user) { Role::Driver } else { Role::Passenger };
    let detail = Detail {
        reason: body.reason.as_deref().unwrap_or_default(),
        by: body.by.as_deref().unwrap_or_default(),
        search_continues: body.search_continues == Some(true),
        is_near_end: body.expires_in_s.is_some() && body.expires_at.is_some(),
    };
    let kind = kind_of(entry.subject, role, detail)?;
    let expires_at = match kind.life {
        Life::S(seconds) => entry.time + TimeDelta::seconds(seconds),
        Life::UntilExpiry => body.expires_at?,
    };
    let topic = body.match_id.or(body.request_id)?;
    let mut message = Map::new();
    let mut put = |name: &str, text: Option<String>| {
        message.extend(text.map(|text| (name.to_owned(), Value::String(text))));
    };
    put("event_id", Some(entry.event_id.clone()));
    put("type", Some(entry.subject.as_str().to_owned()));
    put("time", Some(rfc3339::text(&entry.time)));
    put("role", Some(role.as_str().to_owned()));
    put("title", Some(kind.title.to_owned()));
    put("body", Some(kind.body.to_owned()));
    put("loc_key", Some(loc_key(entry.subject, role, detail)));
    put("match_id", body.match_id.map(|id| id.to_string()));
    put("request_id", body.request_id.map(|id| id.to_string()));
    put("ride_id", body.ride_id.map(|id| id.to_string()));
    put("expires_at", Some(rfc3339::text(&expires_at)));
    Some(Notice { urgent: kind.urgent, topic, expires_at, message: Value::Object(message).to_string() })
}

/// By which an app finds the text in its user's language.
fn loc_key(subject: Subject, role: Role, detail: Detail<'_>) -> String {
    let more = match subject {
        Subject::MatchRejected => format!(".{}", detail.reason),
        Subject::UserFinder => ".near_end".to_owned(),
        Subject::RideCancelled if detail.search_continues => ".search_continues".to_owned(),
        _ => String::new(),
    };
    format!("push.{}.{}{more}", subject.as_str(), role.as_str())
}
