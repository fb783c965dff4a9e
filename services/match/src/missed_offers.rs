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

/// Requests in hand at most. One is worked on at a time: it costs the time of a core.
const ACCEPTED_MAX: usize = 16;
/// Entries that are run without a pause for others.
const ENTRIES: usize = 100;
/// The most entries of one answer, and the longest time for it: what takes longer nobody waits for.
const ENTRIES_MAX: usize = 50_000;
const TIME_MAX: std::time::Duration = std::time::Duration::from_secs(3);

/// Answers until `stop`.
/// `is_recorded` says whether MATCH_RECORD_HOURS is set: what is left of a record from before says nothing of now.
pub(crate) async fn answer(platform: Platform, store: Store<Tables>, is_recorded: bool, stop: CancellationToken) {
    let endpoint = Endpoint {
        service: Some(Service::Match),
        name: "missed_offers".to_owned(),
        subject: MISSED_OFFERS.to_owned(),
        queue_group: Some(MISSED_OFFERS.to_owned()),
        accepted_max: ACCEPTED_MAX,
        wait: MISSED_OFFERS_WAIT,
        health_part: None,
    };
    let permits = Arc::new(Semaphore::new(1));
    responder::serve(platform, endpoint, stop, move |request| {
        reply(store.clone(), permits.clone(), is_recorded, request)
    })
    .await;
}

async fn reply(store: Store<Tables>, permits: Arc<Semaphore>, is_recorded: bool, request: Bytes) -> Reply {
    let request: MissedOffersRequest = match serde_json::from_slice(&request) {
        Ok(request) => request,
        Err(error) => return Reply::unreadable(&error),
    };
    if !is_recorded {
        return Reply::json(&MissedOffersReply::Unavailable);
    }
    let Ok(_permit) = permits.acquire().await else { return Reply::none("it ends") };
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
    }
    Ok(if count == 0 { MissedOffersReply::Unavailable } else { missed.finish() })
}
