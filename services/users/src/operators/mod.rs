//! What operators see of people and do with them, and what they do with dead letters. The process that serves them by HTTP has checked who
//! they are and what they may do (`server/admin`), and asks here; an act is one transaction, with its event for ADMIN_STREAM.

mod acts;
mod letters;
mod rows;
mod view;

use std::sync::Arc;

use axum::http::StatusCode;
use platform::operators::shown;
use platform::{CancellationToken, Problem, operators};
use serde_json::Value;
use streams::operators::shown::{DriverDocuments, DriverPage, MapRows, PeopleOfRide, UserAlone};
use streams::operators::{Asked, USERS_OPERATORS, UsersRequest};
use streams::{Service, UserId};
use tokio::sync::Semaphore;

use crate::context::Context;
use crate::{document, presence, sign_in};
use rows::Person;
use view::not_found;

/// Drivers that a page looks at.
const WINDOW: u32 = 2_000;

/// Requeues in hand at most: each waits for a worker, and the rest of what operators ask must not wait for them.
const REQUEUES_MAX: usize = 4;

/// Answers until `stop`.
pub(crate) async fn answer(context: Context, stop: CancellationToken) {
    let parts = (context.platform.clone(), context.tokens.clone());
    let requeues = Arc::new(Semaphore::new(REQUEUES_MAX));
    operators::answer(parts, (Service::Users, USERS_OPERATORS), stop, move |asked| {
        let (context, requeues) = (context.clone(), requeues.clone());
        async move { reply(&context, &requeues, &asked).await }
    })
    .await;
}

async fn reply(context: &Context, requeues: &Semaphore, asked: &Asked<UsersRequest>) -> Result<Value, Problem> {
    match &asked.request {
        UsersRequest::LookUp { act, phone } => acts::look_up(context, asked, act, phone).await,
        UsersRequest::User { user_id } => user(context, *user_id).await,
        UsersRequest::People { driver_id, passenger_id } => {
            let mut tx = context.store.begin().await?;
            let people = rows::people(&mut tx, &[*driver_id, *passenger_id]).await?;
            let of = |id: UserId| people.iter().find(|person| person.user_id == id);
            Ok(shown(&PeopleOfRide {
                driver: of(*driver_id).map(view::driver_of_ride),
                passenger: of(*passenger_id).map(view::passenger_of_ride),
            }))
        }
        UsersRequest::Offers { request_id } => {
            let mut tx = context.store.begin().await?;
            let offers = rows::offers(&mut tx, *request_id).await?;
            Ok(shown(&offers.iter().map(view::offer).collect::<Vec<_>>()))
        }
        UsersRequest::Drivers { status, after, limit } => {
            drivers(context, status.as_deref(), *after, *limit as usize).await
        }
        UsersRequest::Documents { user_id } => {
            let mut tx = context.store.begin().await?;
            if !rows::people(&mut tx, &[*user_id]).await?.iter().any(|person| person.driver.is_some()) {
                return Err(not_found("driver"));
            }
            let documents = document::rows::of(&mut tx, *user_id).await?;
            let documents = document::view(&documents, context.platform.world.now().date_naive());
            Ok(shown(&DriverDocuments { documents }))
        }
        UsersRequest::Searches { map } => {
            let mut tx = context.store.begin().await?;
            let mut found = rows::searches(&mut tx, map.within.as_ref(), map.limit + 1).await?;
            let truncated = found.len() > map.limit as usize;
            found.truncate(map.limit as usize);
            Ok(shown(&MapRows { rows: found.iter().map(view::search).collect(), truncated }))
        }
        UsersRequest::SignOut { act, user_id } => acts::sign_out(context, asked, act, *user_id).await,
        UsersRequest::Approve { act, user_id } => acts::approve(context, asked, act, *user_id).await,
        UsersRequest::Suspend { act, user_id, until } => acts::suspend(context, asked, act, (*user_id, *until)).await,
        UsersRequest::SetDocuments { act, user_id, documents } => {
            acts::set_documents(context, asked, act, (*user_id, documents)).await
        }
        UsersRequest::Requeue { act, sequence } => {
            let _permit = requeues.try_acquire().map_err(|_| busy())?;
            letters::requeue(context, asked, act, *sequence).await
        }
        UsersRequest::Remove { act, sequence } => letters::remove(context, asked, act, *sequence).await,
    }
}

fn busy() -> Problem {
    let message =
        format!("{REQUEUES_MAX} dead letters are being requeued, and nothing was done: try again in some seconds");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
}

async fn user(context: &Context, id: UserId) -> Result<Value, Problem> {
    let now = context.platform.world.now();
    let mut tx = context.store.begin().await?;
    let person = rows::people(&mut tx, &[id]).await?.pop().ok_or_else(|| not_found("user"))?;
    let sign_ins = sign_in::rows::live_of(&mut tx, id, now).await?;
    let pods = presence::rows::routes(&mut tx, &[id]).await?.remove(&id).map_or(0, |routes| routes.len());
    let search = rows::search_of(&mut tx, id).await?;
    let rides = rows::live_rides(&mut tx, id).await?;
    Ok(shown(&UserAlone {
        user: view::user(&person),
        sign_ins: sign_ins.iter().map(view::sign_in).collect(),
        sockets: pods,
        search: search.as_ref().map(view::search),
        live_ride_ids: rides,
    }))
}

/// In the order of ids.
async fn drivers(
    context: &Context,
    status: Option<&str>,
    after: Option<UserId>,
    limit: usize,
) -> Result<Value, Problem> {
    let mut tx = context.store.begin().await?;
    let looked_at = rows::statuses(&mut tx, after, WINDOW).await?;
    let last = looked_at.last().filter(|_| looked_at.len() >= WINDOW as usize).map(|(id, _)| *id);
    let passes = |of: &str| status.is_none_or(|status| status == of);
    let mut ids: Vec<UserId> = looked_at.iter().filter(|(_, of)| passes(of.as_str())).map(|(id, _)| *id).collect();
    let next = if ids.len() > limit {
        ids.truncate(limit);
        ids.last().copied()
    } else {
        last
    };
    let people: Vec<Person> = rows::people(&mut tx, &ids).await?;
    Ok(shown(&DriverPage { drivers: people.iter().filter_map(view::driver).collect(), next_cursor: next }))
}
