//! Mailboxes: numbering, reading, acknowledging and purging, on both stores.

use platform::{Store, StoreError, Transaction, World};
use testing::{Backend, on_both_stores};
use uuid::Uuid;

use super::rows::{ack, append, cursor, cursors, entries_after, purge};
use super::*;
use crate::tables::Tables;

fn user(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

fn entry(n: u128, event_id: &str) -> NewEntry {
    let (event_id, body) = (event_id.to_owned(), r#"{"b":1.10,"a":"é"}"#.to_owned());
    NewEntry { user: user(n), event_id, subject: Subject::UserBeacon, time: DateTime::UNIX_EPOCH, body }
}

#[test]
fn later_entries_are_counted_for_each_user() {
    let entries = [1, 2, 1, 1, 2].map(|n| entry(n, ""));
    assert_eq!(later_entries_of_same_user(&entries), [2, 1, 1, 0, 0]);
    assert!(later_entries_of_same_user(&[]).is_empty());
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
    let entries = in_one(store, async |tx| entries_after(tx, user(n), from, limit).await).await.unwrap();
    entries.iter().map(|entry| entry.seq).collect()
}

on_both_stores!(entries_are_numbered_without_gaps_until_acknowledged_or_a_day_old);

async fn entries_are_numbered_without_gaps_until_acknowledged_or_a_day_old(backend: Backend) {
    let world = World::seeded(DateTime::UNIX_EPOCH, 1);
    let store = backend.store::<Tables>(&world, "test", "users", &crate::MIGRATIONS).await;
    let at = |hours| DateTime::UNIX_EPOCH + Duration::hours(hours);
    let entries = [entry(2, "a"), entry(1, "a"), entry(2, "b"), entry(2, "c")];
    let given = in_one(&store, async |tx| append(tx, &entries, at(0)).await).await.unwrap();
    assert_eq!(given, [1, 1, 2, 3], "each user's own count, in the order of the entries");
    // A rollback leaves no gap, and one event is in a mailbox once.
    let mut tx = store.begin().await.unwrap();
    assert_eq!(append(&mut tx, &[entry(2, "d")], at(1)).await.unwrap(), [4]);
    drop(tx);
    let again = in_one(&store, async |tx| append(tx, &[entry(2, "b")], at(1)).await).await;
    let refused = matches!(&again, Err(StoreError::Conflict { constraint }) if constraint == "mailbox_event_key");
    assert!(refused, "{again:?}");
    assert_eq!(in_one(&store, async |tx| append(tx, &[entry(2, "d")], at(20)).await).await.unwrap(), [4]);

    assert_eq!(seqs(&store, 2, 0, 10).await, [1, 2, 3, 4]);
    assert_eq!(seqs(&store, 2, 1, 2).await, [2, 3]);
    assert!(seqs(&store, 2, u64::MAX, 2).await.is_empty() && seqs(&store, 9, 0, 2).await.is_empty());
    let first = in_one(&store, async |tx| entries_after(tx, user(2), 1, 1).await).await.unwrap().remove(0);
    let expected = entry(2, "b");
    assert_eq!((first.event_id, first.body, first.time), (expected.event_id, expected.body, expected.time));
    assert_eq!(first.subject, "user.beacon");

    // The client acknowledges up to 2; the purge deletes what is older than a day.
    let acked = async |n, seq| in_one(&store, async |tx| ack(tx, user(n), seq).await).await.unwrap();
    assert!(acked(2, 2).await && acked(2, 1).await && acked(9, 0).await);
    assert!(!acked(2, 5).await && !acked(2, u64::MAX).await && !acked(9, 1).await);
    let cursor = in_one(&store, async |tx| cursor(tx, user(2)).await).await.unwrap();
    assert_eq!(cursor, MailboxCursor { last_seq: 4, acked_seq: 2 });
    assert_eq!(seqs(&store, 2, 0, 10).await, [3, 4]);
    assert_eq!(in_one(&store, async |tx| purge(tx, at(24)).await).await.unwrap(), 0);
    assert_eq!(in_one(&store, async |tx| purge(tx, at(25)).await).await.unwrap(), 2);
    assert_eq!(seqs(&store, 2, 0, 10).await, [4]);
    assert!(seqs(&store, 1, 0, 10).await.is_empty());
    assert_eq!(in_one(&store, async |tx| append(tx, &[entry(1, "z")], at(25)).await).await.unwrap(), [2]);
    let mut all = in_one(&store, async |tx| cursors(tx, &[user(1), user(2), user(9)]).await).await.unwrap();
    all.sort_by_key(|(user, _)| *user);
    assert_eq!(all.iter().map(|(_, cursor)| cursor.last_seq).collect::<Vec<_>>(), [2, 4]);
}
