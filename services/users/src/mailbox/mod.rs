//! Mailboxes: every event for a user, numbered without gaps, until acknowledged or a day old.
//!
//! The rows are the truth; sockets and wake-ups are not its business. All posts of a transaction are written at its end
//! in one statement that locks the heads in the order of the users' ids, so that two writers never wait for each other.

use chrono::{DateTime, Duration, Utc};
use imbl::{OrdMap, OrdSet};
use platform::{On, StoreError, Transaction};
use sqlx::Row;
use streams::{Subject, UserId};
use uuid::Uuid;

use crate::Tables;

/// How long an event waits that is never acknowledged.
const KEPT: Duration = Duration::hours(24);
/// Rows that one purge deletes at most; more than that take another.
pub(crate) const PURGE_MAX: usize = 5_000;

/// Mailboxes in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    heads: OrdMap<UserId, Head>,
    letters: OrdMap<(UserId, u64), Kept>,
    events: OrdSet<(UserId, String)>,
}

#[derive(Debug, Clone)]
struct Kept {
    letter: Letter,
    posted_at: DateTime<Utc>,
}

/// How far a mailbox has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The newest event; 0 before the first.
    pub(crate) last_seq: u64,
    /// The client has all up to here.
    pub(crate) acked_seq: u64,
}

/// An event to be put into a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Post {
    pub(crate) user: UserId,
    pub(crate) event_id: String,
    pub(crate) subject: Subject,
    pub(crate) time: DateTime<Utc>,
    pub(crate) body: String,
}

/// An event in a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) seq: u64,
    pub(crate) event_id: String,
    pub(crate) subject: String,
    pub(crate) time: DateTime<Utc>,
    pub(crate) body: String,
}

/// A sequence as PostgreSQL has it; what does not fit is beyond every mailbox.
fn stored(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

fn read(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or(0)
}

/// For each post, how many of the same user come after it.
fn followers(posts: &[Post]) -> Vec<i64> {
    let mut after = std::collections::BTreeMap::new();
    let mut followers: Vec<i64> = posts
        .iter()
        .rev()
        .map(|post| {
            let count = after.entry(post.user).or_insert(0);
            *count += 1;
            *count - 1
        })
        .collect();
    followers.reverse();
    followers
}

/// Puts `posts` into their mailboxes, in their order, and returns the `seq` of each. To be called once, as the last
/// operation of a transaction: the heads stay locked until it ends.
pub(crate) async fn post(
    tx: &mut Transaction<Tables>,
    posts: &[Post],
    now: DateTime<Utc>,
) -> Result<Vec<u64>, StoreError> {
    if posts.is_empty() {
        return Ok(Vec::new());
    }
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "with posts as (select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], \
                 $5::timestamptz[], $6::text[]) with ordinality as p (user_id, followers, event_id, subject, time, body, n)), \
                 heads as (insert into mailbox_heads as h (user_id, last_seq) \
                 select user_id, count(*) from posts group by user_id order by user_id \
                 on conflict on constraint mailbox_heads_pkey do update set last_seq = h.last_seq + excluded.last_seq \
                 returning user_id, last_seq), \
                 letters as (insert into mailbox (user_id, seq, event_id, subject, time, body, posted_at) \
                 select user_id, last_seq - followers, event_id, subject, time, body, $7 \
                 from posts join heads using (user_id)) \
                 select last_seq - followers from posts join heads using (user_id) order by n",
            )
            .bind(posts.iter().map(|p| p.user.0).collect::<Vec<Uuid>>())
            .bind(followers(posts))
            .bind(posts.iter().map(|p| p.event_id.as_str()).collect::<Vec<_>>())
            .bind(posts.iter().map(|p| p.subject.as_str()).collect::<Vec<_>>())
            .bind(posts.iter().map(|p| p.time).collect::<Vec<_>>())
            .bind(posts.iter().map(|p| p.body.as_str()).collect::<Vec<_>>())
            .bind(now)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter().map(|row| Ok(read(row.try_get(0)?))).collect()
        }
        On::Memory(m) => {
            let rows = &mut m.mailbox;
            posts.iter().map(|post| rows.post(post, now)).collect()
        }
    }
}

impl Rows {
    fn post(&mut self, post: &Post, now: DateTime<Utc>) -> Result<u64, StoreError> {
        if self.events.insert((post.user, post.event_id.clone())).is_some() {
            return Err(StoreError::Conflict { constraint: "mailbox_event_key".to_owned() });
        }
        let head = self.heads.entry(post.user).or_default();
        head.last_seq += 1;
        let seq = head.last_seq;
        let letter = Letter {
            seq,
            event_id: post.event_id.clone(),
            subject: post.subject.as_str().to_owned(),
            time: post.time,
            body: post.body.clone(),
        };
        self.letters.insert((post.user, seq), Kept { letter, posted_at: now });
        Ok(seq)
    }

    fn remove(&mut self, key: (UserId, u64)) {
        if let Some(kept) = self.letters.remove(&key) {
            self.events.remove(&(key.0, kept.letter.event_id));
        }
    }
}

/// The events of `user` after `seq`, in order, at most `limit`.
pub(crate) async fn after(
    tx: &mut Transaction<Tables>,
    user: UserId,
    seq: u64,
    limit: usize,
) -> Result<Vec<Letter>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query(
                "select seq, event_id, subject, time, body from mailbox where user_id = $1 and seq > $2 \
                 order by seq limit $3",
            )
            .bind(user.0)
            .bind(stored(seq))
            .bind(limit as i64)
            .fetch_all(&mut *pg)
            .await?;
            rows.iter()
                .map(|row| {
                    Ok(Letter {
                        seq: read(row.try_get(0)?),
                        event_id: row.try_get(1)?,
                        subject: row.try_get(2)?,
                        time: row.try_get(3)?,
                        body: row.try_get(4)?,
                    })
                })
                .collect()
        }
        On::Memory(m) => {
            let later = m.mailbox.letters.range((user, seq.saturating_add(1))..=(user, u64::MAX));
            Ok(later.take(limit).map(|(_, kept)| kept.letter.clone()).collect())
        }
    }
}

/// How far the mailbox of each of `users` has come; none for who never had an event.
pub(crate) async fn heads(tx: &mut Transaction<Tables>, users: &[UserId]) -> Result<Vec<(UserId, Head)>, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let rows = sqlx::query("select user_id, last_seq, acked_seq from mailbox_heads where user_id = any($1)")
                .bind(users.iter().map(|u| u.0).collect::<Vec<Uuid>>())
                .fetch_all(&mut *pg)
                .await?;
            rows.iter()
                .map(|row| {
                    let head = Head { last_seq: read(row.try_get(1)?), acked_seq: read(row.try_get(2)?) };
                    Ok((UserId(row.try_get(0)?), head))
                })
                .collect()
        }
        On::Memory(m) => {
            let heads = &m.mailbox.heads;
            Ok(users.iter().filter_map(|user| Some((*user, *heads.get(user)?))).collect())
        }
    }
}

/// How far the mailbox of `user` has come.
pub(crate) async fn head(tx: &mut Transaction<Tables>, user: UserId) -> Result<Head, StoreError> {
    Ok(heads(tx, &[user]).await?.first().map_or_else(Head::default, |(_, head)| *head))
}

/// Deletes the events of `user` up to `seq`, which the client has; false, and nothing done, if there are not that many.
pub(crate) async fn ack(tx: &mut Transaction<Tables>, user: UserId, seq: u64) -> Result<bool, StoreError> {
    match tx.on() {
        On::Postgres(pg) => {
            let acked = sqlx::query(
                "update mailbox_heads set acked_seq = greatest(acked_seq, $2) where user_id = $1 and last_seq >= $2",
            )
            .bind(user.0)
            .bind(stored(seq))
            .execute(&mut *pg)
            .await?;
            if acked.rows_affected() == 0 {
                return Ok(seq == 0);
            }
            sqlx::query("delete from mailbox where user_id = $1 and seq <= $2")
                .bind(user.0)
                .bind(stored(seq))
                .execute(&mut *pg)
                .await?;
            Ok(true)
        }
        On::Memory(m) => {
            let rows = &mut m.mailbox;
            let Some(head) = rows.heads.get_mut(&user).filter(|head| head.last_seq >= seq) else {
                return Ok(seq == 0);
            };
            head.acked_seq = head.acked_seq.max(seq);
            let gone: Vec<_> = rows.letters.range((user, 0)..=(user, seq)).map(|(key, _)| *key).collect();
            gone.into_iter().for_each(|key| rows.remove(key));
            Ok(true)
        }
    }
}

/// Deletes at most [`PURGE_MAX`] events that have waited a day, and returns how many.
pub(crate) async fn purge(tx: &mut Transaction<Tables>, now: DateTime<Utc>) -> Result<usize, StoreError> {
    let before = now - KEPT;
    match tx.on() {
        On::Postgres(pg) => {
            let gone = sqlx::query(
                "delete from mailbox where (user_id, seq) in \
                 (select user_id, seq from mailbox where posted_at < $1 limit $2 for update skip locked)",
            )
            .bind(before)
            .bind(PURGE_MAX as i64)
            .execute(&mut *pg)
            .await?;
            Ok(usize::try_from(gone.rows_affected()).unwrap_or(usize::MAX))
        }
        On::Memory(m) => {
            let rows = &mut m.mailbox;
            let old = rows.letters.iter().filter(|(_, kept)| kept.posted_at < before);
            let gone: Vec<_> = old.take(PURGE_MAX).map(|(key, _)| *key).collect();
            let count = gone.len();
            gone.into_iter().for_each(|key| rows.remove(key));
            Ok(count)
        }
    }
}

#[cfg(test)]
mod tests {
    use platform::{Store, World};

    use super::*;

    fn user(n: u128) -> UserId {
        UserId(Uuid::from_u128(n))
    }

    fn post_to(n: u128, event_id: &str) -> Post {
        let (event_id, body) = (event_id.to_owned(), r#"{"b":1.10,"a":"é"}"#.to_owned());
        Post { user: user(n), event_id, subject: Subject::UserBeacon, time: DateTime::UNIX_EPOCH, body }
    }

    #[test]
    fn followers_are_counted_for_each_user() {
        let posts = [1, 2, 1, 1, 2].map(|n| post_to(n, ""));
        assert_eq!(followers(&posts), [2, 1, 1, 0, 0]);
        assert!(followers(&[]).is_empty());
    }

    async fn in_one<T>(
        store: &Store<Tables>,
        work: impl AsyncFnOnce(&mut Transaction<Tables>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut tx = store.begin().await?;
        let done = work(&mut tx).await?;
        tx.commit().await?;
        Ok(done)
    }

    async fn seqs(store: &Store<Tables>, n: u128, from: u64, limit: usize) -> Vec<u64> {
        let letters = in_one(store, async |tx| after(tx, user(n), from, limit).await).await.unwrap();
        letters.iter().map(|letter| letter.seq).collect()
    }

    async fn a_mailbox(store: Store<Tables>) {
        let day = |hours| DateTime::UNIX_EPOCH + Duration::hours(hours);
        let posts = [post_to(2, "a"), post_to(1, "a"), post_to(2, "b"), post_to(2, "c")];
        let given = in_one(&store, async |tx| post(tx, &posts, day(0)).await).await.unwrap();
        assert_eq!(given, [1, 1, 2, 3], "each user's own count, in the order of the posts");
        // What is rolled back leaves no gap; one event is in a mailbox once.
        let mut tx = store.begin().await.unwrap();
        assert_eq!(post(&mut tx, &[post_to(2, "d")], day(1)).await.unwrap(), [4]);
        drop(tx);
        let again = in_one(&store, async |tx| post(tx, &[post_to(2, "b")], day(1)).await).await;
        let refused = matches!(&again, Err(StoreError::Conflict { constraint }) if constraint == "mailbox_event_key");
        assert!(refused, "{again:?}");
        assert_eq!(in_one(&store, async |tx| post(tx, &[post_to(2, "d")], day(20)).await).await.unwrap(), [4]);

        assert_eq!(seqs(&store, 2, 0, 10).await, [1, 2, 3, 4]);
        assert_eq!(seqs(&store, 2, 1, 2).await, [2, 3]);
        assert!(seqs(&store, 2, u64::MAX, 2).await.is_empty() && seqs(&store, 9, 0, 2).await.is_empty());
        let first = in_one(&store, async |tx| after(tx, user(2), 1, 1).await).await.unwrap().remove(0);
        let expected = post_to(2, "b");
        assert_eq!((first.event_id, first.body, first.time), (expected.event_id, expected.body, expected.time));
        assert_eq!(first.subject, "user.beacon");

        // Acknowledged up to 2; then what is older than a day.
        let acked = async |n, seq| in_one(&store, async |tx| ack(tx, user(n), seq).await).await.unwrap();
        assert!(acked(2, 2).await && acked(2, 1).await && acked(9, 0).await);
        assert!(!acked(2, 5).await && !acked(2, u64::MAX).await && !acked(9, 1).await);
        let head = in_one(&store, async |tx| head(tx, user(2)).await).await.unwrap();
        assert_eq!(head, Head { last_seq: 4, acked_seq: 2 });
        assert_eq!(seqs(&store, 2, 0, 10).await, [3, 4]);
        assert_eq!(in_one(&store, async |tx| purge(tx, day(24)).await).await.unwrap(), 0);
        assert_eq!(in_one(&store, async |tx| purge(tx, day(25)).await).await.unwrap(), 2);
        assert_eq!(seqs(&store, 2, 0, 10).await, [4]);
        assert!(seqs(&store, 1, 0, 10).await.is_empty());
        assert_eq!(in_one(&store, async |tx| post(tx, &[post_to(1, "z")], day(25)).await).await.unwrap(), [2]);
        let mut all = in_one(&store, async |tx| heads(tx, &[user(1), user(2), user(9)]).await).await.unwrap();
        all.sort_by_key(|(user, _)| *user);
        assert_eq!(all.iter().map(|(_, head)| head.last_seq).collect::<Vec<_>>(), [2, 4]);
    }

    #[tokio::test]
    async fn a_mailbox_in_memory() {
        a_mailbox(Store::memory(&World::seeded(DateTime::UNIX_EPOCH, 1), &"test".into())).await;
    }

    #[tokio::test]
    async fn a_mailbox_in_postgres() {
        let (world, url) = (World::seeded(DateTime::UNIX_EPOCH, 1), testing::database::fresh().await);
        a_mailbox(Store::postgres(&world, &"test".into(), &url, "users", &crate::MIGRATIONS, 2).await.unwrap()).await;
    }
}
