//! `POST /v1/rides/{id}/rating`, and what a ride says of the rating that its viewer gave.

use chrono::{DateTime, Utc};
use platform::store::{Retry, TransactionError};
use platform::{Problem, Store, StoreError, Transaction, World};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use streams::event::rfc3339;
use streams::person::RatingGiven;
use streams::{RideId, UserId};

use super::{Decision, Opinion, Rating, decide, rows};
use crate::ride::Ride;
use crate::ride::rows::lock_ride_of;
use crate::tables::Tables;

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RatingRequest {
    #[schemars(range(min = 1, max = 5))]
    stars: i64,
    /// At most 500 characters.
    comment: Option<String>,
}

/// In its ride.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Rating")]
pub(crate) struct RatingView {
    #[schemars(range(min = 1, max = 5))]
    stars: u8,
    comment: Option<String>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "DateTime<Utc>")]
    at: DateTime<Utc>,
}

/// A refusal, or a failure of the store after which the transaction may run again.
#[derive(Debug)]
enum RatingError {
    Refused(Problem),
    Store(StoreError),
}

impl From<StoreError> for RatingError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl TransactionError for RatingError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Refused(_) => None,
            Self::Store(error) => Some(error),
        }
    }
}

/// Rates the other party of a ride. 201, also for a repeat.
pub(crate) async fn rate(
    store: &Store<Tables>,
    world: &World,
    (ride, user): (RideId, UserId),
    request: RatingRequest,
) -> Result<RatingGiven, Problem> {
    let opinion = Opinion::new(request.stars, request.comment.as_deref())?;
    let rated =
        store.transact(Retry::SerializationOrConflict, |tx| rate_in(tx, world, (ride, user), opinion.clone())).await;
    match rated {
        Ok(rating) => Ok(given(&rating)),
        Err(RatingError::Refused(problem)) => Err(problem),
        Err(RatingError::Store(error)) => Err(error.into()),
    }
}

async fn rate_in(
    mut tx: Transaction<Tables>,
    world: &World,
    (ride, user): (RideId, UserId),
    opinion: Opinion,
) -> Result<Rating, RatingError> {
    let not_found = || RatingError::Refused(Problem::not_found("ride"));
    let ride = lock_ride_of(&mut tx, ride, user).await?.ok_or_else(not_found)?;
    let ratings = rows::of_rides(&mut tx, &[ride.ride_id]).await?;
    let (own, theirs) = (own(&ride, user, &ratings), ratings.iter().find(|rating| !is_own(&ride, user, rating)));
    let now = world.now();
    let rating = match decide(&ride, user, (own, theirs), opinion, now).map_err(RatingError::Refused)? {
        Decision::AlreadyDone(rating) => return Ok(rating),
        Decision::Rated(rating) => rating,
    };
    rows::insert(&mut tx, &rating).await?;
    if let Some(first) = theirs {
        rows::set_counts_from(&mut tx, first, now).await?;
    }
    tx.commit().await?;
    tracing::info!(ride_id = %rating.ride_id, by = rating.by.as_str(), "a ride was rated");
    Ok(rating)
}

fn is_own(ride: &Ride, user: UserId, rating: &Rating) -> bool {
    let side = if user == ride.driver_id { super::Rater::Driver } else { super::Rater::Passenger };
    rating.ride_id == ride.ride_id && rating.by == side
}

/// The rating that this party of a ride gave.
pub(crate) fn own<'a>(ride: &Ride, user: UserId, ratings: &'a [Rating]) -> Option<&'a Rating> {
    ratings.iter().find(|rating| is_own(ride, user, rating))
}

/// A rating as who gave it sees it.
pub(crate) fn view(rating: &Rating) -> RatingView {
    RatingView { stars: rating.stars, comment: rating.comment.clone(), at: rating.at }
}

/// The same with its ride.
pub(crate) fn given(rating: &Rating) -> RatingGiven {
    let Rating { ride_id, stars, at, .. } = *rating;
    RatingGiven { ride_id, stars, comment: rating.comment.clone(), at }
}
