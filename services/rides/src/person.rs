//! Answers users about a person: a page of what rides stores of them besides their rides, for an export; and erases it when the account has
//! ended. Rides, bills and events stay: they name people by an id that then means nobody.

use std::sync::Arc;

use bytes::Bytes;
use platform::responder::{self, Endpoint, Reply};
use platform::{CancellationToken, Platform, Store, StoreError};
use serde_json::{Value, json};
use streams::person::{
    ERASED_MAX, PAGE_MAX, PERSON, PERSON_WAIT, PersonList, PersonPage, PersonRequest, RatingReceived, ShareMade,
};
use streams::{Service, UserId};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::note;
use crate::rating::{self, Rating};
use crate::refund;
use crate::share::{self, Share};
use crate::sos;
use crate::tables::Tables;

/// Requests that are worked on at once, and those in hand at most.
const CONCURRENCY: usize = 4;
const ACCEPTED_MAX: usize = 64;

/// Answers until `stop`.
pub(crate) async fn answer(platform: Platform, store: Store<Tables>, stop: CancellationToken) {
    let endpoint = Endpoint {
        service: Some(Service::Rides),
        name: "person".to_owned(),
        subject: PERSON.to_owned(),
        queue_group: Some(PERSON.to_owned()),
        accepted_max: ACCEPTED_MAX,
        wait: PERSON_WAIT,
        health_part: None,
    };
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    responder::serve(platform.clone(), endpoint, stop, move |request| {
        reply(platform.clone(), store.clone(), permits.clone(), request)
    })
    .await;
}

async fn reply(platform: Platform, store: Store<Tables>, permits: Arc<Semaphore>, request: Bytes) -> Reply {
    let request: PersonRequest = match serde_json::from_slice(&request) {
        Ok(request) => request,
        Err(error) => return Reply::unreadable(&error),
    };
    let Ok(_permit) = permits.acquire().await else { return Reply::none("it ends") };
    let replied = match request {
        PersonRequest::Export { user_id, list, after } => {
            page(&platform, &store, user_id, list, after).await.map(|page| Reply::json(&page))
        }
        PersonRequest::Erase { users } if users.len() <= ERASED_MAX => {
            erase(&store, &users).await.map(|is_all| Reply::json(&is_all))
        }
        PersonRequest::Erase { .. } => return Reply::none(format!("at most {ERASED_MAX} people at once")),
    };
    replied.unwrap_or_else(|error| Reply::none(error.to_string()))
}

async fn page(
    platform: &Platform,
    store: &Store<Tables>,
    user: UserId,
    list: PersonList,
    after: Option<Uuid>,
) -> Result<PersonPage, StoreError> {
    let after = after.unwrap_or_default();
    let mut tx = store.begin().await?;
    if list == PersonList::Shares {
        let shares = share::rows::made_by(&mut tx, user, after, PAGE_MAX).await?;
        let next = shares.last().filter(|_| shares.len() >= PAGE_MAX as usize).map(|share| share.share_id);
        return Ok(PersonPage { entries: shares.iter().map(made).collect(), next });
    }
    if list == PersonList::SosAlerts {
        let alerts = sos::rows::raised_by(&mut tx, user, after, PAGE_MAX).await?;
        let next = alerts.last().filter(|_| alerts.len() >= PAGE_MAX as usize).map(|alert| alert.sos_id);
        return Ok(PersonPage { entries: alerts.iter().map(|alert| json!(sos::routes::view(alert))).collect(), next });
    }
    let (ratings, view): (Vec<Rating>, fn(&Rating) -> Value) = match list {
        PersonList::RatingsGiven => (rating::rows::given_by(&mut tx, user, after, PAGE_MAX).await?, given),
        _ => {
            let now = platform.world.now();
            (rating::rows::received_by(&mut tx, user, now, after, PAGE_MAX).await?, received)
        }
    };
    let is_full = ratings.len() >= PAGE_MAX as usize;
    Ok(PersonPage {
        entries: ratings.iter().map(view).collect(),
        next: ratings.last().filter(|_| is_full).map(|rating| rating.ride_id.0),
    })
}

fn given(rating: &Rating) -> Value {
    json!(rating::routes::given(rating))
}

/// Without the ride, and with the month alone: both would say who it was.
fn received(rating: &Rating) -> Value {
    let month = rating.at.format("%Y-%m").to_string();
    json!(RatingReceived { stars: rating.stars, comment: rating.comment.clone(), month })
}

fn made(share: &Share) -> Value {
    let Share { share_id, ride_id, created_at, expires_at, .. } = *share;
    json!(ShareMade { share_id, ride_id, created_at, expires_at })
}

/// False while one of them has an open call for help, which is erased later.
async fn erase(store: &Store<Tables>, users: &[UserId]) -> Result<bool, StoreError> {
    let mut tx = store.begin().await?;
    rating::rows::erase_people(&mut tx, users).await?;
    share::rows::erase_people(&mut tx, users).await?;
    note::rows::erase_people(&mut tx, users).await?;
    refund::rows::erase_people(&mut tx, users).await?;
    let is_all = sos::rows::erase_people(&mut tx, users).await?;
    tx.commit().await?;
    Ok(is_all)
}
