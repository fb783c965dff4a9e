//! The sign-ins that ended so recently that access tokens of theirs have not expired yet. Every process holds them all, so that
//! it refuses such a token by itself.
//!
//! users fills the set from its table. Every other process fills it by [`follow`]: from the messages that users publishes, and from the
//! list that users returns: at its start, because it has missed all before, whenever a message may have been lost here, by a new connection
//! or a full subscription, and now and then. A message that users did not send, because its process died, another one of its processes
//! sends, which finds the end in the table.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use streams::bus::Subscription;
use streams::sign_ins::{
    EndedSignIn, EndedSignInsRequest, SIGN_INS_ENDED, SIGN_INS_LIST, SIGN_INS_LIST_WAIT, SIGN_INS_PAGE,
};
use streams::{BusError, SignInId};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::{ACCESS_TOKEN_S, Tokens};
use crate::{CancellationToken, Platform};

/// The most sign-ins that are remembered; above it those that ended first are forgotten. At this size it is 111 sign-outs a
/// second, for as long as an access token lives.
const ENDED_MAX: usize = 100_000;
/// The time between two requests for the list while nothing gives a reason to.
const LIST_INTERVAL: Duration = Duration::from_secs(30);
/// How often this process looks for one.
const REASON_INTERVAL: Duration = Duration::from_secs(1);
/// How far back each request but the first asks: longer than a transaction of users takes to commit, and than clocks differ.
const LIST_OVERLAP: TimeDelta = TimeDelta::seconds(60);
/// Names the key that seals the messages.
const PURPOSE: &str = "ended-sign-ins";

/// Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct EndedSignIns(Arc<RwLock<Ended>>);

#[derive(Debug, Default)]
struct Ended {
    by_id: BTreeMap<SignInId, EndedSignIn>,
    by_time: BTreeSet<(DateTime<Utc>, SignInId)>,
}

impl EndedSignIns {
    /// Adds those that were not known and whose tokens may still be valid at `now`, and forgets those whose tokens have expired.
    /// Returns the new ones.
    pub fn insert(&self, ended: &[EndedSignIn], now: DateTime<Utc>) -> Vec<EndedSignIn> {
        let mut guard = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Ended { by_id, by_time } = &mut *guard;
        let forgotten_until = now - remembered_for();
        let mut new = Vec::new();
        for one in ended.iter().filter(|one| one.ended_at > forgotten_until) {
            // A clock that is ahead must not keep an entry for longer than the others.
            let one = EndedSignIn { ended_at: one.ended_at.min(now), ..*one };
            if let Entry::Vacant(place) = by_id.entry(one.sign_in_id) {
                place.insert(one);
                by_time.insert((one.ended_at, one.sign_in_id));
                new.push(one);
            }
        }
        while let Some(&(ended_at, id)) = by_time.first() {
            if ended_at > forgotten_until && by_time.len() <= ENDED_MAX {
                break;
            }
            by_time.pop_first();
            by_id.remove(&id);
        }
        new
    }

    /// Whether the sign-in ended so recently that an access token of it may not have expired.
    pub fn contains(&self, sign_in: SignInId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_id.contains_key(&sign_in)
    }

    /// Those that ended after `after`, in the order of time and id, [`SIGN_INS_PAGE`] at most.
    pub fn page_after(&self, after: (DateTime<Utc>, SignInId)) -> Vec<EndedSignIn> {
        use std::ops::Bound::{Excluded, Unbounded};
        let sets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let page = sets.by_time.range((Excluded(after), Unbounded)).take(SIGN_INS_PAGE);
        page.filter_map(|(_, id)| sets.by_id.get(id).copied()).collect()
    }
}

/// How long after its end a sign-in is remembered: until its last access token has expired, by any process' clock.
pub fn remembered_for() -> TimeDelta {
    TimeDelta::seconds(ACCESS_TOKEN_S + 60)
}

/// The message with these sign-ins.
pub fn seal(tokens: &Tokens, ended: &[EndedSignIn]) -> Bytes {
    let body = serde_json::to_vec(ended).expect("ids and times are plain JSON");
    let mut message = hex::encode(tokens.keys.hash(PURPOSE, &body)).into_bytes();
    message.extend(body);
    message.into()
}

/// The sign-ins of a message; `None` if none of the platform's processes made it.
pub fn open(tokens: &Tokens, message: &[u8]) -> Option<Vec<EndedSignIn>> {
    let (seal, body) = message.split_at_checked(64)?;
    let seal = hex::decode(seal).ok()?;
    tokens.keys.is_hash(PURPOSE, body, &seal).then_some(())?;
    serde_json::from_slice(body).ok()
}

/// Keeps the set of a process without the users service up to date, until `stop`.
pub async fn follow(platform: Platform, tokens: Tokens, stop: CancellationToken) {
    let mut subscription: Option<Subscription> = None;
    let mut since = platform.world.now() - remembered_for();
    let (mut next_look, mut next_list) = (Instant::now(), Instant::now());
    // Connections and dropped messages before the last list was requested.
    let mut losses = (0, 0);
    loop {
        if subscription.is_none() {
            subscription = platform.bus.subscribe(SIGN_INS_ENDED, None).await.ok();
            next_list = Instant::now();
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            message = next(&mut subscription) => match message {
                Some(message) => insert(&platform, &tokens, &message),
                None => subscription = None,
            },
            () = sleep_until(next_look) => {
                next_look = Instant::now() + REASON_INTERVAL;
                let losses_now = (platform.bus.reconnects(), platform.bus.dropped());
                if losses_now == losses && Instant::now() < next_list {
                    continue;
                }
                let asked_at = platform.world.now();
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    listed = request_list(&platform, &tokens, since) => match listed {
                        Ok(()) => {
                            (since, losses) = (asked_at - LIST_OVERLAP, losses_now);
                            next_list = Instant::now() + LIST_INTERVAL;
                        }
                        // No users process, or no bus: then no sign-in ends either. The next request asks from the same time on.
                        Err(error) => tracing::debug!(%error, "the list of ended sign-ins was not received"),
                    }
                }
            }
        }
    }
}

/// The next message; pending for ever without a subscription.
async fn next(subscription: &mut Option<Subscription>) -> Option<Bytes> {
    match subscription {
        Some(subscription) => subscription.next().await.map(|message| message.payload),
        None => std::future::pending().await,
    }
}

fn insert(platform: &Platform, tokens: &Tokens, message: &[u8]) {
    match open(tokens, message) {
        Some(ended) => _ = tokens.ended.insert(&ended, platform.world.now()),
        None => {
            tracing::warn!("a list of ended sign-ins is not from this platform, or has another DATA_SECRET: ignored")
        }
    }
}

async fn request_list(platform: &Platform, tokens: &Tokens, since: DateTime<Utc>) -> Result<(), BusError> {
    let mut after = (since, SignInId(Uuid::nil()));
    loop {
        let request = serde_json::to_vec(&EndedSignInsRequest { after }).expect("ids and times are plain JSON");
        let reply = platform.bus.request(SIGN_INS_LIST, request.into(), SIGN_INS_LIST_WAIT).await?;
        let Some(ended) = open(tokens, &reply) else {
            insert(platform, tokens, &reply);
            return Ok(());
        };
        tokens.ended.insert(&ended, platform.world.now());
        match ended.last() {
            Some(last) if ended.len() >= SIGN_INS_PAGE => after = (last.ended_at, last.sign_in_id),
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::World;
    use streams::UserId;

    fn ended(n: u128, ended_at: DateTime<Utc>) -> EndedSignIn {
        EndedSignIn { sign_in_id: SignInId(Uuid::from_u128(n)), user_id: UserId(Uuid::nil()), ended_at }
    }

    #[test]
    fn a_sign_in_is_remembered_until_its_tokens_have_expired() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let set = EndedSignIns::default();
        let old = ended(1, now - remembered_for());
        let (before, ahead) = (ended(2, now - TimeDelta::seconds(1)), ended(3, now + TimeDelta::days(1)));
        let new = set.insert(&[old, before, ahead, before], now);
        assert_eq!(new, [before, ended(3, now)], "once each, and no later than now");
        assert_eq!(set.insert(&[before], now), []);
        assert!(!set.contains(old.sign_in_id) && set.contains(before.sign_in_id));
        set.insert(&[], now - TimeDelta::seconds(1) + remembered_for());
        assert!(!set.contains(before.sign_in_id) && set.contains(ahead.sign_in_id));
    }

    #[test]
    fn the_set_is_bounded_and_read_in_pages() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let set = EndedSignIns::default();
        let all: Vec<_> = (0..ENDED_MAX + 2).map(|n| ended(n as u128, now)).collect();
        set.insert(&all, now);
        assert!(!set.contains(all[1].sign_in_id) && set.contains(all[2].sign_in_id));
        let (mut after, mut read) = ((now - TimeDelta::seconds(1), SignInId(Uuid::nil())), 0);
        loop {
            let page = set.page_after(after);
            read += page.len();
            let Some(last) = page.last() else { break };
            after = (last.ended_at, last.sign_in_id);
        }
        assert_eq!(read, ENDED_MAX);
    }

    #[tokio::test]
    async fn only_a_message_of_the_platform_is_opened() {
        let world = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1);
        let tokens = Tokens::new(&world, &[7; 32]).unwrap();
        let list = [ended(1, world.now()), ended(2, world.now())];
        let sealed = seal(&tokens, &list);
        assert_eq!(open(&tokens, &sealed).as_deref(), Some(&list[..]));
        assert_eq!(open(&Tokens::new(&world, &[8; 32]).unwrap(), &sealed), None);
        let rotated = Tokens::with_secrets(&world, &[&[8; 32], &[7; 32]], &[&[8; 32], &[7; 32]]).unwrap();
        assert!(open(&rotated, &sealed).is_some());
        for forged in [&b""[..], b"[]", &sealed[1..], &[&sealed[..], b" "].concat(), &[b'z'; 70]] {
            assert_eq!(open(&tokens, forged), None);
        }
    }
}
