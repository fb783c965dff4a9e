//! Ratings: each party of a ride rates the other once, within 72 hours of the end. Pure; `rows` has the table, `routes` the route, `means`
//! answers users.
//!
//! A rating is in the mean once both have rated, at the latest when nobody can rate any more. Until then neither the mean nor any answer
//! depends on what the other party gave, so nobody rates to pay back.

pub(crate) mod means;
pub(crate) mod routes;
pub(crate) mod rows;

use chrono::{DateTime, Duration, Utc};
use platform::{Problem, plain_text};
use streams::{RideId, UserId};

use crate::ride::Ride;

/// How long after the end of a ride its parties may rate.
const OPEN_FOR: Duration = Duration::hours(72);
/// The most characters of a comment.
const COMMENT_MAX: usize = 500;
/// The newest ratings that count: who was rated badly years ago may have changed.
pub(crate) const NEWEST_MAX: u32 = 500;

/// The side of a ride that rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rater {
    Driver,
    Passenger,
}

impl Rater {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Passenger => "passenger",
        }
    }
}

/// A rating as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rating {
    pub(crate) ride_id: RideId,
    pub(crate) by: Rater,
    /// `None` once that account has ended, as with the next one.
    pub(crate) by_user: Option<UserId>,
    pub(crate) of_user: Option<UserId>,
    pub(crate) stars: u8,
    pub(crate) comment: Option<String>,
    pub(crate) at: DateTime<Utc>,
    /// From when on it is in the mean.
    pub(crate) counts_from: DateTime<Utc>,
}

/// What a client gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opinion {
    pub(crate) stars: u8,
    pub(crate) comment: Option<String>,
}

impl Opinion {
    /// # Errors
    /// A problem with the field `stars` or `comment`.
    pub(crate) fn new(stars: i64, comment: Option<&str>) -> Result<Self, Problem> {
        let wrong = || Problem::field("stars", "must be a whole number from 1 to 5");
        let stars = u8::try_from(stars).ok().filter(|stars| (1..=5).contains(stars)).ok_or_else(wrong)?;
        // A comment without anything that can be seen is none.
        let comment = comment.and_then(plain_text::line);
        if comment.as_ref().is_some_and(|comment| comment.chars().count() > COMMENT_MAX) {
            return Err(Problem::field("comment", format!("must have at most {COMMENT_MAX} characters")));
        }
        Ok(Self { stars, comment })
    }
}

/// What comes of an opinion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    Rated(Rating),
    /// It was given before.
    AlreadyDone(Rating),
}

/// Decides on the opinion of `user`, a party of `ride`, who gave `own` before; the other party gave `theirs`.
///
/// # Errors
/// `ride_not_over`, `ride_not_started`, `rating_closed`, `already_rated`.
pub(crate) fn decide(
    ride: &Ride,
    user: UserId,
    (own, theirs): (Option<&Rating>, Option<&Rating>),
    opinion: Opinion,
    now: DateTime<Utc>,
) -> Result<Decision, Problem> {
    if !ride.status.is_final() {
        let message = format!("the ride is not over, its status is {}: rate it after its end", ride.status.as_str());
        return Err(Problem::conflict("ride_not_over", message));
    }
    if let Some(own) = own {
        if (own.stars, own.comment.as_ref()) == (opinion.stars, opinion.comment.as_ref()) {
            return Ok(Decision::AlreadyDone(own.clone()));
        }
        return Err(Problem::conflict("already_rated", "you have rated this ride, and a rating does not change"));
    }
    if ride.started_at.is_none() {
        return Err(Problem::conflict(
            "ride_not_started",
            "the ride was cancelled before it started: there is nothing to rate",
        ));
    }
    let closes_at = ride.updated_at + OPEN_FOR;
    if now > closes_at {
        return Err(Problem::conflict("rating_closed", "a ride is rated within 72 hours of its end"));
    }
    let (by, of) = match user == ride.driver_id {
        true => (Rater::Driver, ride.passenger_id),
        false => (Rater::Passenger, ride.driver_id),
    };
    let counts_from = if theirs.is_some() { now } else { closes_at };
    Ok(Decision::Rated(Rating {
        ride_id: ride.ride_id,
        by,
        by_user: Some(user),
        of_user: Some(of),
        stars: opinion.stars,
        comment: opinion.comment,
        at: now,
        counts_from,
    }))
}

/// The mean of `count` ratings, in hundredths; `None` without one.
pub(crate) fn mean(stars: u32, count: u32) -> Option<f64> {
    (count > 0).then(|| (f64::from(stars) * 100.0 / f64::from(count)).round() / 100.0)
}

#[cfg(test)]
mod tests;
