//! What rides stores of a person: it belongs into the person's export, and is erased with the account. Core requests.

use platform::{Problem, StoreError};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use streams::UserId;
use streams::person::{
    ERASED_MAX, PERSON, PERSON_WAIT, PersonList, PersonPage, PersonRequest, RatingGiven, RatingReceived, ShareMade,
    SosRaised,
};

use super::rows;
use crate::context::Context;

/// The most pages of one list in an export: 10,000 entries.
const PAGES_MAX: usize = 50;

/// What rides stores of a person.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Elsewhere {
    #[schemars(with = "Vec<RatingGiven>")]
    ratings_given: Vec<Value>,
    #[schemars(with = "Vec<RatingReceived>")]
    ratings_received: Vec<Value>,
    #[schemars(with = "Vec<ShareMade>")]
    shares: Vec<Value>,
    #[schemars(with = "Vec<SosRaised>")]
    sos_alerts: Vec<Value>,
    /// The lists with more entries than an export has.
    truncated: Vec<&'static str>,
}

impl Elsewhere {
    fn list(&mut self, list: PersonList) -> &mut Vec<Value> {
        match list {
            PersonList::RatingsGiven => &mut self.ratings_given,
            PersonList::RatingsReceived => &mut self.ratings_received,
            PersonList::Shares => &mut self.shares,
            PersonList::SosAlerts => &mut self.sos_alerts,
        }
    }
}

async fn request<T: serde::de::DeserializeOwned>(context: &Context, request: &PersonRequest) -> Option<T> {
    let body = serde_json::to_vec(request).expect("ids are JSON");
    let reply = context.platform.bus.request(PERSON, body.into(), PERSON_WAIT).await.map_err(|e| e.to_string());
    let read = reply.and_then(|reply| serde_json::from_slice(&reply).map_err(|e| e.to_string()));
    read.inspect_err(|error| tracing::warn!(error, "rides did not answer about a person")).ok()
}

/// The lists, by their field; those with more entries than an export has are named in `truncated`.
///
/// # Errors
/// `unavailable` if rides does not answer: an export says all, or nothing.
pub(super) async fn export(context: &Context, user_id: UserId) -> Result<Elsewhere, Problem> {
    let mut lists = Elsewhere::default();
    for list in PersonList::ALL {
        let (mut entries, mut after) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let asked = PersonRequest::Export { user_id, list, after };
            let page: PersonPage = request(context, &asked).await.ok_or_else(Problem::unavailable)?;
            entries.extend(page.entries);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if after.is_some() {
            lists.truncated.push(list.field());
        }
        *lists.list(list) = entries;
    }
    Ok(lists)
}

/// Has rides erase what it stores of these people. False if it does not answer, or could not erase all yet.
pub(super) async fn erase(context: &Context, users: &[UserId]) -> bool {
    request(context, &PersonRequest::Erase { users: users.to_vec() }).await == Some(true)
}

/// Has rides erase what it has not erased yet of accounts that have ended.
///
/// # Errors
/// [`StoreError`]; the next call does it.
pub(super) async fn sweep(context: &Context) -> Result<(), StoreError> {
    loop {
        let mut tx = context.store.begin().await?;
        let users = rows::to_erase_elsewhere(&mut tx, ERASED_MAX, context.platform.world.now()).await?;
        drop(tx);
        if users.is_empty() || !erase(context, &users).await {
            return Ok(());
        }
        let mut tx = context.store.begin().await?;
        rows::set_erased_elsewhere(&mut tx, &users, context.platform.world.now()).await?;
        tx.commit().await?;
    }
}
