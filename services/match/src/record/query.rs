//! Questions about the record in the store: pages of it are read, each in a transaction of its own, and given to what runs them again.

use std::collections::VecDeque;

use chrono::{DateTime, Duration, Utc};
use platform::{On, Store, StoreError};
use sqlx::Row;
use streams::{MatchId, RequestId};
use uuid::Uuid;

use super::explain::{Explainer, Explanation, Target};
use super::what_if::{Happened, Report, WhatIf};
use super::{Entry, RulesByVersion, rows};
use crate::engine::assign::Policy;
use crate::tables::{Tables, Tx};

/// A page.
const PAGE_ENTRIES: usize = 500;
const PAGE_BYTES: usize = 8 << 20;
/// Clocks of two processes differ by less.
const CLOCKS: Duration = Duration::seconds(60);
/// A search is looked for so long after its beginning, if its row is gone.
const SEARCHES: Duration = Duration::hours(1);

/// The entries from a snapshot on, one term after the other. With zones, terms are beside each other in time: those of each zone follow
/// those of another one.
#[derive(Debug)]
pub struct Entries {
    store: Store<Tables>,
    rules: RulesByVersion,
    next: Option<rows::At>,
    /// Where the terms after this one begin.
    terms: VecDeque<rows::At>,
    page: VecDeque<Entry>,
    page_entries: usize,
}

impl Entries {
    /// Of each term from the newest snapshot on that is not later than `at`, else from the oldest one.
    pub async fn from(store: &Store<Tables>, at: DateTime<Utc>) -> Result<Self, StoreError> {
        let mut tx = store.begin().await?;
        let (rules, terms) = (rows::rules(&mut tx).await?, rows::snapshots_before(&mut tx, at).await?);
        let mut terms = VecDeque::from(terms);
        let (next, page) = (terms.pop_front(), VecDeque::new());
        Ok(Self { store: store.clone(), rules, next, terms, page, page_entries: PAGE_ENTRIES })
    }

    /// Goes on with the next term.
    pub fn leave_term(&mut self) {
        self.page.clear();
        self.next = self.terms.pop_front();
    }

    /// With pages of so many entries.
    #[must_use]
    pub fn in_pages_of(self, page_entries: usize) -> Self {
        Self { page_entries, ..self }
    }

    pub fn rules(&self) -> &RulesByVersion {
        &self.rules
    }

    /// Whether the next entry is in memory already.
    pub fn has_page(&self) -> bool {
        !self.page.is_empty()
    }

    pub async fn next(&mut self) -> Result<Option<Entry>, StoreError> {
        while self.page.is_empty()
            && let Some(from) = self.next
        {
            let mut tx = self.store.begin().await?;
            let page = rows::page(&mut tx, from, self.page_entries, PAGE_BYTES).await?;
            self.page = page.into_iter().take_while(|entry| entry.epoch == from.0).collect();
            self.next = self.page.back().map(|entry| (entry.epoch, entry.number + 1));
            if self.next.is_none() {
                self.next = self.terms.pop_front();
            }
        }
        Ok(self.page.pop_front())
    }
}

/// The time of a UUIDv7, which is when it was made.
fn made_at(id: Uuid) -> Option<DateTime<Utc>> {
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanoseconds)
}

/// When a match was found.
async fn found_at(tx: &mut Tx, id: MatchId) -> Result<Option<DateTime<Utc>>, StoreError> {
    let at = match tx.on() {
        On::Postgres(pg) => {
            let row =
                sqlx::query("select found_at from offers where match_id = $1").bind(id.0).fetch_optional(pg).await?;
            row.map(|row| row.try_get(0)).transpose()?
        }
        On::Memory(tables) => tables.offers.get(&id).map(|offer| offer.found_at),
    };
    Ok(at.or_else(|| made_at(id.0)))
}

/// From when to when a search was live, at most.
async fn lived(tx: &mut Tx, id: RequestId) -> Result<Option<(DateTime<Utc>, DateTime<Utc>)>, StoreError> {
    let row: Option<(DateTime<Utc>, Option<DateTime<Utc>>)> = match tx.on() {
        On::Postgres(pg) => {
            let row = sqlx::query("select opened_at, ended_at from requests where request_id = $1")
                .bind(id.0)
                .fetch_optional(pg)
                .await?;
            row.map(|row| Ok::<_, StoreError>((row.try_get(0)?, row.try_get(1)?))).transpose()?
        }
        On::Memory(tables) => tables.requests.get(&id).map(|request| (request.opened_at, request.ended_at)),
    };
    let made = || made_at(id.0).map(|at| (at, None));
    Ok(row.or_else(made).map(|(from, until)| (from, until.unwrap_or(from + SEARCHES))))
}

/// Why a match was made, or what was decided about a search.
///
/// # Errors
/// [`StoreError`].
pub async fn explain(store: &Store<Tables>, target: Target) -> Result<Explanation, StoreError> {
    let mut tx = store.begin().await?;
    let span = match target {
        Target::Match(id) => found_at(&mut tx, id).await?.map(|at| (at, at)),
        Target::Request(id) => lived(&mut tx, id).await?,
    };
    drop(tx);
    let Some((from, until)) = span else {
        let reason = Some("nothing is known of it, and its id does not say when it was made".to_owned());
        return Ok(Explanation { reproduced: false, reason, decisions: Vec::new(), left_out: 0 });
    };
    let mut explained = run(store, target, from, until).await?;
    if explained.decisions.is_empty() {
        // It may have been decided by a process whose clock was behind that of the one that wrote the snapshot.
        let earlier = run(store, target, from - CLOCKS, until).await?;
        if !earlier.decisions.is_empty() {
            explained = earlier;
        }
    }
    Ok(explained)
}

async fn run(
    store: &Store<Tables>,
    target: Target,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Explanation, StoreError> {
    let mut entries = Entries::from(store, from).await?;
    let mut explainer = Explainer::new(target);
    while let Some(entry) = entries.next().await? {
        if entry.at > until + CLOCKS {
            entries.leave_term();
        } else if explainer.entry(&entry, entries.rules()) {
            break;
        }
    }
    Ok(explainer.finish())
}

/// What would have come of the searches since `since` under another policy. `None` if nothing is recorded.
///
/// # Errors
/// [`StoreError`].
pub async fn what_if(
    store: &Store<Tables>,
    policy: Policy,
    since: DateTime<Utc>,
) -> Result<Option<Report>, StoreError> {
    let mut happened = Happened::new(since);
    let mut entries = Entries::from(store, since).await?;
    let terms = entries.next.iter().chain(&entries.terms).copied().collect::<Vec<_>>();
    while let Some(entry) = entries.next().await? {
        if !happened.entry(&entry, entries.rules()) {
            break;
        }
    }
    let count = happened.entries;
    if count == 0 {
        return Ok(None);
    }
    let mut what_if = WhatIf::new(policy, happened);
    let mut terms = VecDeque::from(terms);
    let mut again = Entries { next: terms.pop_front(), terms, page: VecDeque::new(), ..entries };
    for _ in 0..count {
        // Old entries may be deleted meanwhile, and new ones are not waited for.
        let Some(entry) = again.next().await? else { break };
        what_if.entry(&entry, &again.rules);
    }
    Ok(Some(what_if.finish()))
}
