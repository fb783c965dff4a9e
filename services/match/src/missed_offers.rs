//! Answers users, which shows drivers why others were offered the searches around them: the record is run again. Any process of match can,
//! also one that does not match.

use std::sync::Arc;

use bytes::Bytes;
use platform::responder::{self, Endpoint, Reply};
use platform::{CancellationToken, Platform, Store, StoreError};
use streams::Service;
use streams::missed_offers::{MISSED_OFFERS, MISSED_OFFERS_WAIT, MissedOffersReply, MissedOffersRequest};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::record::missed::Missed;
use crate::record::query::Entries;
use crate::tables::Tables;

/// Requests in hand at most.
const ACCEPTED_MAX: usize = 16;
/// Entries that are run without a pause for others.
const ENTRIES: usize = 100;
/// The most entries of one answer, and the longest time for it: what takes longer nobody waits for.
const ENTRIES_MAX: usize = 50_000;
const TIME_MAX: std::time::Duration = std::time::Duration::from_secs(3);

/// Answers until `stop`. Who has the permit works: it costs the time of a core.
pub(crate) async fn answer(platform: Platform, store: Store<Tables>, permit: Arc<Semaphore>, stop: CancellationToken) {
    let endpoint = Endpoint {
        service: Some(Service::Match),
        name: "missed_offers".to_owned(),
        subject: MISSED_OFFERS.to_owned(),
        queue_group: Some(MISSED_OFFERS.to_owned()),
        accepted_max: ACCEPTED_MAX,
        wait: MISSED_OFFERS_WAIT,
        health_part: None,
    };
    responder::serve(platform, endpoint, stop, move |request| reply(store.clone(), permit.clone(), request)).await;
}

async fn reply(store: Store<Tables>, permit: Arc<Semaphore>, request: Bytes) -> Reply {
    let request: MissedOffersRequest = match serde_json::from_slice(&request) {
        Ok(request) => request,
        Err(error) => return Reply::unreadable(&error),
    };
    let Ok(_permit) = permit.acquire().await else { return Reply::none("it ends") };
    match missed(&store, &request).await {
        Ok(reply) => Reply::json(&reply),
        Err(error) => Reply::none(error.to_string()),
    }
}

async fn missed(store: &Store<Tables>, request: &MissedOffersRequest) -> Result<MissedOffersReply, StoreError> {
    let until = Instant::now() + TIME_MAX;
    let mut entries = Entries::from(store, request.since).await?.in_pages_of(ENTRIES);
    let (mut missed, mut count) = (Missed::new(request.user_id, request.since), 0);
    while let Some(entry) = entries.next().await? {
        count += 1;
        if count > ENTRIES_MAX || Instant::now() >= until {
            return Ok(MissedOffersReply::Busy);
        }
        missed.entry(&entry, entries.rules());
        if !entries.has_page() {
            tokio::task::yield_now().await;
        }
    }
    let (searches, more) = missed.finish();
    Ok(MissedOffersReply::Missed { searches, more })
}
