//! What came of a push, and what that means for its row and its device. Pure.

use axum::http::{HeaderMap, StatusCode, header};
use chrono::{DateTime, TimeDelta, Utc};

/// The pause after the first try; it doubles.
const FIRST_PAUSE: TimeDelta = TimeDelta::seconds(1);
const PAUSE_MAX: TimeDelta = TimeDelta::seconds(30);
/// A longer `Retry-After` is not believed.
const RETRY_AFTER_MAX: i64 = 300;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Sent,
    /// The device will never receive anything again: it is removed.
    Gone,
    /// This push will never be accepted: it is dropped, and the device stays.
    Refused(String),
    /// It is tried again, not before so many seconds if the other side said so.
    Failed {
        why: String,
        retry_after_s: Option<i64>,
    },
    /// Nothing was sent: a breaker is open. It counts as no try.
    NotTried,
    /// The operator has not configured the platform.
    Unconfigured,
}

impl Outcome {
    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self::Failed { why: why.into(), retry_after_s: None }
    }

    /// A failure that names the status, with its `Retry-After`.
    pub(crate) fn failed_with(status: StatusCode, headers: &HeaderMap) -> Self {
        let after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse::<i64>().ok());
        Self::Failed { why: format!("answered {status}"), retry_after_s: after.map(|s| s.clamp(0, RETRY_AFTER_MAX)) }
    }

    /// Its label in metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Gone => "gone",
            Self::Refused(_) => "refused",
            Self::Failed { .. } => "failed",
            Self::NotTried => "not_tried",
            Self::Unconfigured => "unconfigured",
        }
    }
}

/// What is done with the row of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Delete,
    DeleteWithDevice,
    /// It would come too late.
    Expire,
    Again(DateTime<Utc>),
    /// The same, without this try.
    PutBack(DateTime<Utc>),
}

/// `tries` counts this one.
pub(crate) fn next(outcome: &Outcome, tries: i32, expires_at: DateTime<Utc>, now: DateTime<Utc>) -> Next {
    let at = |pause: TimeDelta| now + pause;
    let again = match outcome {
        Outcome::Sent | Outcome::Refused(_) | Outcome::Unconfigured => return Next::Delete,
        Outcome::Gone => return Next::DeleteWithDevice,
        Outcome::NotTried => Next::PutBack(at(FIRST_PAUSE)),
        Outcome::Failed { retry_after_s, .. } => {
            let doubled = FIRST_PAUSE * 2_i32.pow(u32::try_from(tries - 1).unwrap_or(0).min(5));
            Next::Again(at(doubled.min(PAUSE_MAX).max(TimeDelta::seconds(retry_after_s.unwrap_or(0)))))
        }
    };
    match again {
        Next::Again(at) | Next::PutBack(at) if at >= expires_at => Next::Expire,
        again => again,
    }
}
