//! Mailboxes: numbering, reading, acknowledging and purging, on both stores.

use platform::{Store, StoreError, Transaction, World};
use testing::{Backend, on_both_stores};
use uuid::Uuid;

use super::device_rows::{open_device, purge_devices, touch_devices};
use super::rows::{ack, cursor, cursors, entries_after, missed, purge};
use super::*;
use crate::tables::Tables;

fn user(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

fn device(name: &str) -> Device {
    if name.is_empty() { Device::UNNAMED } else { Device::named(name).unwrap() }
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

async fn append(
    tx: &mut Transaction<Tables>,
    entries: &[NewEntry],
    now: DateTime<Utc>,
) -> Result<Vec<u64>, StoreError> {
    Ok(rows::append(tx, entries, now).await?.into_iter().map(|one| one.seq).collect())
}

async fn seqs(store: &Store<Tables>, n: u128, from: u64, limit: usize) -> Vec<u64> {
    let entries = in_one(store, async |tx| entries_after(tx, user(n), from, limit).await).await.unwrap();
    entries.iter().map(|entry| entry.seq).collect()
}

on_both_stores!(
    entries_are_numbered_without_gaps_until_acknowledged_or_a_day_old,
    an_entry_waits_for_every_device_seen_in_a_day,
    a_client_behind_a_cut_misses_the_range_that_is_gone,
    a_mailbox_holds_at_most_10_000_entries_and_beacons_go_first,
);

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

    // The only device acknowledges up to 2; the purge deletes what is older than a day.
    let phone = device("phone");
    let acked = async |n, seq| in_one(&store, async |tx| ack(tx, user(n), &phone, seq, at(20)).await).await.unwrap();
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

/// A store in which user 1 has entries 1 to 9.
async fn with_nine(backend: Backend) -> Store<Tables> {
    let world = World::seeded(DateTime::UNIX_EPOCH, 1);
    let store = backend.store::<Tables>(&world, "test", "users", &crate::MIGRATIONS).await;
    let entries: Vec<NewEntry> = (1..=9).map(|n| entry(1, &format!("e{n}"))).collect();
    in_one(&store, async |tx| append(tx, &entries, DateTime::UNIX_EPOCH).await).await.unwrap();
    store
}

async fn an_entry_waits_for_every_device_seen_in_a_day(backend: Backend) {
    let store = with_nine(backend).await;
    let at = |minutes| DateTime::UNIX_EPOCH + Duration::minutes(minutes);
    let open = async |name: &str, has, minutes| {
        let device = device(name);
        in_one(&store, async |tx| open_device(tx, user(1), &device, has, at(minutes)).await).await.unwrap();
    };
    let acked = async |name: &str, seq, minutes| {
        let device = device(name);
        assert!(in_one(&store, async |tx| ack(tx, user(1), &device, seq, at(minutes)).await).await.unwrap());
        seqs(&store, 1, 0, 10).await.first().copied().unwrap_or(0)
    };
    open("phone", 0, 0).await;
    open("tablet", 2, 1).await;
    assert_eq!(acked("phone", 5, 1).await, 3, "the tablet had 2 when it came");
    // To open again moves no mark, and an older ack neither.
    open("tablet", 9, 2).await;
    assert_eq!(acked("phone", 1, 2).await, 3);
    assert_eq!(acked("tablet", 4, 3).await, 5);
    // A socket without a device speaks for nobody: while one was seen in the last day, nothing goes.
    open("", 9, 4).await;
    assert_eq!(acked("", 9, 4).await, 5);
    assert_eq!(acked("phone", 6, 5).await, 5);
    assert_eq!(acked("tablet", 6, 6).await, 5);
    // A day after it was last seen a device is waited for no more; one that stays connected is touched.
    let day = 24 * 60 + 10;
    let sockets = [(user(1), device("tablet"))];
    in_one(&store, async |tx| touch_devices(tx, &sockets, at(day)).await).await.unwrap();
    assert_eq!(acked("phone", 9, day + 3).await, 5, "the unnamed one was seen at 4");
    assert_eq!(acked("phone", 9, day + 4).await, 7, "the tablet is still waited for");
    assert_eq!(acked("phone", 9, 2 * day).await, 0, "and now is not");
    in_one(&store, async |tx| purge_devices(tx, at(2 * day)).await).await.unwrap();
    open("tablet", 7, 2 * day).await;
    assert_eq!(in_one(&store, async |tx| cursor(tx, user(1)).await).await.unwrap().acked_seq, 9);
    // A client with ever new names has no more rows than this: the one seen longest ago is forgotten.
    let again: Vec<NewEntry> = (10..=12).map(|n| entry(1, &format!("e{n}"))).collect();
    in_one(&store, async |tx| append(tx, &again, at(2 * day)).await).await.unwrap();
    for n in 0..DEVICES_MAX {
        open(&format!("d{n}"), 12, 2 * day + 1 + n).await;
    }
    assert_eq!(acked("d0", 12, 2 * day + 30).await, 0, "phone and tablet are forgotten");
}

async fn a_client_behind_a_cut_misses_the_range_that_is_gone(backend: Backend) {
    let store = with_nine(backend).await;
    let missing = async |seq| {
        let range = in_one(&store, async |tx| missed(tx, user(1), seq, 9).await).await.unwrap();
        range.map(|MissedRange { from, to }| (from, to))
    };
    for seq in 0..=9 {
        assert_eq!(missing(seq).await, None, "{seq}");
    }
    let remove = async |seqs: &[u64]| {
        in_one(&store, async |tx| {
            match tx.on() {
                platform::On::Postgres(pg) => {
                    let seqs: Vec<i64> = seqs.iter().map(|seq| *seq as i64).collect();
                    let query = sqlx::query("delete from mailbox where seq = any($1)").bind(seqs);
                    query.execute(&mut *pg).await?;
                }
                platform::On::Memory(tables) => seqs.iter().for_each(|seq| {
                    tables.mailboxes.entries.remove(&(user(1), *seq));
                }),
            }
            Ok(())
        })
        .await
        .unwrap();
    };
    remove(&[4, 6]).await;
    let ranges = [missing(0).await, missing(3).await, missing(4).await, missing(5).await, missing(6).await];
    assert_eq!(ranges, [Some((4, 6)), Some((4, 6)), Some((6, 6)), Some((6, 6)), None]);
    remove(&[1, 2]).await;
    assert_eq!([missing(0).await, missing(1).await, missing(2).await], [Some((1, 6)), Some((2, 6)), Some((4, 6))]);
    remove(&[9]).await;
    assert_eq!([missing(0).await, missing(8).await, missing(9).await], [Some((1, 9)), Some((9, 9)), None]);
    remove(&[3, 5, 7, 8]).await;
    assert_eq!([missing(0).await, missing(7).await], [Some((1, 9)), Some((8, 9))]);
}

async fn a_mailbox_holds_at_most_10_000_entries_and_beacons_go_first(backend: Backend) {
    let world = World::seeded(DateTime::UNIX_EPOCH, 1);
    let store = backend.store::<Tables>(&world, "test", "users", &crate::MIGRATIONS).await;
    let mut n = 0;
    let mut append_all = async |count: usize, subject: Subject| {
        let entries: Vec<NewEntry> = (0..count)
            .map(|_| {
                n += 1;
                NewEntry { subject, ..entry(1, &n.to_string()) }
            })
            .collect();
        in_one(&store, async |tx| append(tx, &entries, DateTime::UNIX_EPOCH).await).await.unwrap();
        let all = seqs(&store, 1, 0, 20_000).await;
        assert!(all.len() as u64 <= ENTRIES_MAX, "{}", all.len());
        (all.first().copied().unwrap_or(0), all.len(), all)
    };
    append_all(100, Subject::UserFinder).await;
    append_all(300, Subject::UserBeacon).await;
    assert_eq!(append_all(9_499, Subject::MatchFound).await.1, 9_899);
    assert_eq!(append_all(101, Subject::MatchFound).await.1, 9_900, "10,000 were one multiple of a hundred");
    assert_eq!(append_all(99, Subject::MatchFound).await.1, 9_999);
    let (first, count, all) = append_all(1, Subject::MatchFound).await;
    assert_eq!((first, count), (1, 9_900));
    assert_eq!((all[99], all[100]), (100, 301), "the oldest 200 beacons are gone");
    // The last 100 beacons go, and then the oldest of the others: 1 to 100, 401 to 456.
    let (first, count, _) = append_all(256, Subject::MatchFound).await;
    assert_eq!((first, count), (457, 9_900));
    assert_eq!(append_all(244, Subject::MatchFound).await.0, 457 + 244);
    let cursor = in_one(&store, async |tx| cursor(tx, user(1)).await).await.unwrap();
    assert_eq!(cursor.last_seq, 10_600);
}
