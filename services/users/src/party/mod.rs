//! The other party of a match or a ride, as a user is shown it: joined to the body of an event when a frame is made. It is in no stream,
//! in no mailbox and in no audit trail, so that a name or a plate is changed, or gone, in one place.
//!
//! `view` decides who is shown in which body, `cache` remembers people for a few seconds, so that a batch of frames costs one query at
//! most, and usually none. The means of their ratings are of rides (`means`): one core request for those that are not known.

pub(crate) mod cache;
pub(crate) mod contacts;
pub(crate) mod means;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use platform::responder::{self, Endpoint, Reply};
use platform::{CancellationToken, StoreError, Transaction};
use streams::parties::{PARTIES, PARTIES_WAIT, Parties, PartiesRequest};
use streams::ratings::{MeanRating, RATINGS, RATINGS_USERS_MAX, RATINGS_WAIT, RatingsRequest};
use streams::{Service, UserId};
use tokio::sync::Semaphore;

use self::cache::Person;
pub(crate) use self::view::FrameBody;
use self::view::Shown;
use crate::account;
use crate::context::Context;
use crate::gateway::pod_message::{BROADCAST, PodMessage};
use crate::tables::Tables;

/// Requests of rides that are worked on at once, and those in hand at most.
const CONCURRENCY: usize = 8;
const ACCEPTED_MAX: usize = 256;

/// The bodies as their viewers are shown them, in the order of `frames`.
///
/// # Errors
/// [`StoreError`] if somebody who is to be shown cannot be read.
pub(crate) async fn join(context: &Context, frames: &[FrameBody<'_>]) -> Result<Vec<String>, StoreError> {
    let now = context.platform.world.now();
    let shown: Vec<Shown> = frames.iter().map(|frame| frame.shown(now)).collect();
    let mut people = people(context, shown.iter().filter_map(Shown::user)).await?;
    rate(context, &mut people).await;
    let person = |user: &UserId| people.get(user).and_then(Option::as_ref);
    Ok(frames.iter().zip(&shown).map(|(frame, shown)| frame.with(shown, person, now)).collect())
}

/// Reads the people who are shown in `frames`, as far as they are not remembered, in a transaction that is made anyway: [`join`] needs none
/// of its own then.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn read_ahead(
    context: &Context,
    tx: &mut Transaction<Tables>,
    frames: &[FrameBody<'_>],
) -> Result<(), StoreError> {
    let now = context.platform.world.now();
    let shown: Vec<Shown> = frames.iter().map(|frame| frame.shown(now)).collect();
    let (_, missing) = known(context, shown.iter().filter_map(Shown::user));
    if !missing.is_empty() {
        read(context, tx, missing).await?;
    }
    Ok(())
}

type People = BTreeMap<UserId, Option<Arc<Person>>>;

/// Those of these users whom this pod remembers, and the others.
fn known(context: &Context, users: impl Iterator<Item = UserId>) -> (People, Vec<UserId>) {
    let mut found = BTreeMap::new();
    let mut missing = Vec::new();
    for user in users {
        match context.people.known(user, context.platform.world.now()) {
            Some(person) => _ = found.insert(user, person),
            None => missing.push(user),
        }
    }
    missing.sort_unstable();
    missing.dedup();
    (found, missing)
}

/// Reads these users, and remembers them.
async fn read(
    context: &Context,
    tx: &mut Transaction<Tables>,
    users: Vec<UserId>,
) -> Result<Vec<(UserId, Option<Arc<Person>>)>, StoreError> {
    // What was forgotten while the rows were read is not remembered from them.
    let reading = context.people.begin_read();
    let mut rows = account::rows::people(tx, &users).await?;
    let people: Vec<_> = users.into_iter().map(|user| (user, rows.remove(&user).map(Arc::new))).collect();
    for (user, person) in &people {
        context.people.remember(*user, person.clone(), reading, context.platform.world.now());
    }
    Ok(people)
}

/// These users, from the cache or in one query. `None` for one who is not there.
async fn people(context: &Context, users: impl Iterator<Item = UserId>) -> Result<People, StoreError> {
    let (mut found, missing) = known(context, users);
    if !missing.is_empty() {
        let mut tx = context.store.begin().await?;
        found.extend(read(context, &mut tx, missing).await?);
    }
    Ok(found)
}

/// Joins the means of people's ratings. While rides does not answer, those that are known.
async fn rate(context: &Context, people: &mut BTreeMap<UserId, Option<Arc<Person>>>) {
    let there = people.iter().filter(|(_, person)| person.is_some()).map(|(user, _)| *user);
    let unknown = context.means.unknown(there, context.platform.world.now());
    for users in unknown.chunks(RATINGS_USERS_MAX) {
        if !read_means(context, users).await {
            break;
        }
    }
    let now = context.platform.world.now();
    for (user, person) in people.iter_mut() {
        let (Some(shown), Some(mean)) = (person.as_deref(), context.means.mean(*user, now)) else { continue };
        *person = Some(Arc::new(Person { rating: Some(mean), ..shown.clone() }));
    }
}

/// Asks rides for the means of these users and remembers them. False without an answer: frames do not wait for longer than
/// [`RATINGS_WAIT`].
async fn read_means(context: &Context, users: &[UserId]) -> bool {
    if !context.ratings.admits() {
        return false;
    }
    let request = serde_json::to_vec(&RatingsRequest { users: users.to_vec() }).expect("ids are JSON");
    let reply = context.platform.bus.request(RATINGS, request.into(), RATINGS_WAIT).await.map_err(|e| e.to_string());
    match reply.and_then(|reply| serde_json::from_slice::<Vec<MeanRating>>(&reply).map_err(|e| e.to_string())) {
        Ok(means) => {
            context.ratings.succeeded();
            let means: BTreeMap<UserId, f64> = means.into_iter().map(|rating| (rating.user_id, rating.mean)).collect();
            let read = users.iter().map(|user| (*user, means.get(user).copied()));
            context.means.remember(read, context.platform.world.now());
            true
        }
        Err(error) => {
            context.ratings.failed();
            tracing::debug!(error, "rides did not say the ratings of people");
            false
        }
    }
}

/// A user's name or vehicle has changed, and the change is committed: every pod reads it again.
pub(crate) async fn changed(context: &Context, user: UserId) {
    context.people.forget(user);
    let message = PodMessage::PersonChanged(user).sign(&context.tokens);
    if let Err(error) = context.platform.bus.publish_core(BROADCAST, message.into()).await {
        tracing::debug!(%error, "other pods show a user as before for some seconds");
    }
}

/// Answers rides, which shows one ride by HTTP and knows the ratings itself, until `stop`.
pub(crate) async fn answer(context: Context, stop: CancellationToken) {
    let endpoint = Endpoint {
        service: Some(Service::Users),
        name: "parties".to_owned(),
        subject: PARTIES.to_owned(),
        queue_group: Some(PARTIES.to_owned()),
        accepted_max: ACCEPTED_MAX,
        wait: PARTIES_WAIT,
        health_part: None,
    };
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    let platform = context.platform.clone();
    responder::serve(platform, endpoint, stop, move |request| reply(context.clone(), permits.clone(), request)).await;
}

async fn reply(context: Context, permits: Arc<Semaphore>, request: Bytes) -> Reply {
    let request: PartiesRequest = match serde_json::from_slice(&request) {
        Ok(request) => request,
        Err(error) => return Reply::unreadable(&error),
    };
    let Ok(_permit) = permits.acquire().await else { return Reply::none("it ends") };
    match people(&context, [request.driver_id, request.passenger_id].into_iter()).await {
        Ok(people) => {
            let person = |user: UserId| people.get(&user).and_then(Option::as_ref);
            Reply::json(&Parties {
                driver: person(request.driver_id).and_then(|person| person.as_driver()),
                passenger: person(request.passenger_id).map(|person| person.as_passenger()),
            })
        }
        Err(error) => Reply::none(error.to_string()),
    }
}
