//! Answers users, which shows drivers why others were offered the searches around them: the record is run again. Any process of match can,
//! also one that does not match.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use platform::responder::{self, Endpoint, Reply};
use platform::{CancellationToken, Platform, Store, StoreError};
use streams::Service;
use streams::missed_offers::{MISSED_OFFERS, MISSED_OFFERS_WAIT, MissedOffersReply, MissedOffersRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::record::missed::Missed;
use crate::record::query::Entries;
use crate::record::{Entry, RulesByVersion};
use crate::tables::Tables;

/// Requests in hand at most. Who has the permit is worked on, in a thread of its own: it costs the time of a core. The others get `busy`.
const ACCEPTED_MAX: usize = 16;
/// Entries that are read at once.
const ENTRIES: usize = 100;
/// The most entries of one answer, and the longest time for it: what takes longer nobody waits for.
const ENTRIES_MAX: usize = 50_000;
const TIME_MAX: Duration = Duration::from_secs(3);

/// Answers until `stop`. `is_recorded` says whether MATCH_RECORD_HOURS is set: what is left of a record from before says nothing of now.
pub(crate) async fn answer(
    (platform, store, permits): (Platform, Store<Tables>, Arc<Semaphore>),
    is_recorded: bool,
    stop: CancellationToken,
) {
    let endpoint = Endpoint {
        service: Some(Service::Match),
        name: "missed_offers".to_owned(),
        subject: MISSED_OFFERS.to_owned(),
        queue_group: Some(MISSED_OFFERS.to_owned()),
        accepted_max: ACCEPTED_MAX,
        wait: MISSED_OFFERS_WAIT,
        health_part: None,
    };
    let store = is_recorded.then_some(store);
    responder::serve(platform, endpoint, stop, move |request| reply(store.clone(), permits.clone(), request)).await;
}

async fn reply(store: Option<Store<Tables>>, permits: Arc<Semaphore>, request: Bytes) -> Reply {
    let request: MissedOffersRequest = match serde_json::from_slice(&request) {
        Ok(request) => request,
        Err(error) => return Reply::unreadable(&error),
    };
    match answered(store, permits, &request).await {
        Ok(reply) => Reply::json(&reply),
        Err(error) => Reply::none(error.to_string()),
    }
}

async fn answered(
    store: Option<Store<Tables>>,
    permits: Arc<Semaphore>,
    request: &MissedOffersRequest,
) -> Result<MissedOffersReply, StoreError> {
    let Some(store) = store else { return Ok(MissedOffersReply::Unavailable) };
    let Ok(permit) = permits.try_acquire_owned() else { return Ok(MissedOffersReply::Busy) };
    let work = Work { missed: Missed::new(request.user_id, request.since), _permit: permit };
    missed(&store, request.since, work, Instant::now() + TIME_MAX).await
}

/// What runs the record again. Its permit is free when the last of it has ended, also if nobody waits for the reply any more.
struct Work {
    missed: Missed,
    _permit: OwnedSemaphorePermit,
}

impl Work {
    /// `None` if it takes too long.
    fn page(mut self, page: &[Entry], rules: &RulesByVersion, until: Instant) -> Option<Self> {
        for entry in page {
            if Instant::now() >= until {
                return None;
            }
            self.missed.entry(entry, rules);
        }
        Some(self)
    }
}

async fn missed(
    store: &Store<Tables>,
    since: DateTime<Utc>,
    mut work: Work,
    until: Instant,
) -> Result<MissedOffersReply, StoreError> {
    let mut entries = Entries::from(store, since).await?.in_pages_of(ENTRIES);
    let mut count = 0;
    loop {
        let page = entries.next_page().await?;
        if page.is_empty() {
            break;
        }
        count += page.len();
        if count > ENTRIES_MAX {
            return Ok(MissedOffersReply::Busy);
        }
        let rules = entries.rules().clone();
        let done = spawn_blocking(move || work.page(&page, &rules, until)).await;
        match done.map_err(|error| StoreError::Other(format!("running the record again: {error}")))? {
            Some(next) => work = next,
            None => return Ok(MissedOffersReply::Busy),
        }
    }
    Ok(if count == 0 { MissedOffersReply::Unavailable } else { work.missed.finish() })
}

#[cfg(test)]
mod tests {
    use platform::World;

    use super::*;
    use crate::engine::Engine;
    use crate::positions::DriverPositions;
    use crate::record::{Recorder, rows};

    #[tokio::test]
    async fn whoever_asks_while_another_one_is_answered_gets_busy_at_once() {
        let world = World::real();
        let store = Store::memory(&world, &"a".into());
        let request = MissedOffersRequest { user_id: world.id(), since: world.now() };
        let permits = Arc::new(Semaphore::new(1));
        let held = permits.clone().try_acquire_owned().unwrap();
        let busy = answered(Some(store.clone()), permits.clone(), &request).await.unwrap();
        assert_eq!(busy, MissedOffersReply::Busy);
        drop(held);
        let empty = answered(Some(store), permits.clone(), &request).await.unwrap();
        assert_eq!(empty, MissedOffersReply::Unavailable, "nothing is recorded");
        let off = answered(None, permits, &request).await.unwrap();
        assert_eq!(off, MissedOffersReply::Unavailable, "nothing is recorded any more");
    }

    #[tokio::test]
    async fn a_replay_ends_at_its_deadline_and_leaves_its_permit() {
        let world = World::real();
        let store: Store<Tables> = Store::memory(&world, &"a".into());
        let (mut engine, mut positions) =
            (Engine::new(crate::Config::default().rules(crate::zones::Zone::ONLY)), DriverPositions::default());
        let mut recorder = Recorder::new(1);
        let inputs = [crate::engine::Input::Housekeeping];
        let recording = recorder.before(&engine, &mut positions, &inputs, world.now());
        let mut no_id = |_: &crate::engine::assign::Assignment| world.id();
        let output = crate::engine::step(&mut engine, &inputs, &mut positions, world.now(), &mut no_id);
        let recorded = recorder.after(recording, &engine, &mut positions, &inputs, world.now(), (&[], &output));
        let mut tx = store.begin().await.unwrap();
        rows::insert(&mut tx, &recorded, world.now()).await.unwrap();
        tx.commit().await.unwrap();
        let permits = Arc::new(Semaphore::new(1));
        let work = || Work {
            missed: Missed::new(world.id(), world.now()),
            _permit: permits.clone().try_acquire_owned().unwrap(),
        };
        let over = missed(&store, world.now(), work(), Instant::now()).await.unwrap();
        assert_eq!(over, MissedOffersReply::Busy);
        let in_time = missed(&store, world.now(), work(), Instant::now() + Duration::from_secs(3_600)).await.unwrap();
        assert!(matches!(in_time, MissedOffersReply::Missed { complete_since: Some(_), .. }), "{in_time:?}");
        assert_eq!(permits.available_permits(), 1);
    }
}
