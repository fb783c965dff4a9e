//! One conformance suite for both stores: constraints, rollback, isolation, owners, versions, inbox and outbox.

use platform::{Retry, Store, StoreError, Transaction, World};
use testing::Backend;
use uuid::Uuid;

use crate::accounts::{MIGRATIONS, Tables, add, find, open, store};

testing::on_both_stores!(
    a_commit_is_visible_and_a_dropped_transaction_is_not,
    a_refused_constraint_is_named,
    another_owner_or_an_old_version_changes_nothing,
    two_concurrent_transactions_lose_no_update,
    a_second_insert_waits_and_conflicts_only_if_the_first_commits,
    a_message_is_recorded_once_for_each_consumer,
    a_rollback_removes_the_inbox_record,
    a_hundred_concurrent_transactions_all_count,
    a_transaction_that_conflicts_is_retried_a_bounded_number_of_times,
    migrations_may_run_again,
    a_purge_keeps_young_rows,
);

fn owner() -> Uuid {
    Uuid::from_u128(1)
}

async fn a_commit_is_visible_and_a_dropped_transaction_is_not(backend: Backend) {
    let store = store(backend, &World::real()).await;
    let mut tx = store.begin().await.unwrap();
    open(&mut tx, "a", owner(), 5).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    open(&mut tx, "b", owner(), 5).await.unwrap();
    assert!(add(&mut tx, "a", owner(), 1, 1).await.unwrap());
    assert_eq!(find(&mut tx, "a").await.unwrap().unwrap().amount, 6);
    drop(tx);
    let mut tx = store.begin().await.unwrap();
    assert_eq!(find(&mut tx, "a").await.unwrap().unwrap().amount, 5);
    assert_eq!(find(&mut tx, "b").await.unwrap(), None);
}

async fn a_refused_constraint_is_named(backend: Backend) {
    let store = store(backend, &World::real()).await;
    let mut tx = store.begin().await.unwrap();
    open(&mut tx, "a", owner(), 0).await.unwrap();
    tx.commit().await.unwrap();
    for (name, amount, expected) in [("a", 0, "accounts_pkey"), ("b", -1, "accounts_amount_positive")] {
        let mut tx = store.begin().await.unwrap();
        match open(&mut tx, name, owner(), amount).await {
            Err(StoreError::Conflict { constraint }) => assert_eq!(constraint, expected),
            other => panic!("{other:?}"),
        }
    }
}

async fn another_owner_or_an_old_version_changes_nothing(backend: Backend) {
    let store = store(backend, &World::real()).await;
    let mut tx = store.begin().await.unwrap();
    open(&mut tx, "a", owner(), 0).await.unwrap();
    assert!(!add(&mut tx, "a", Uuid::from_u128(2), 1, 5).await.unwrap());
    assert!(add(&mut tx, "a", owner(), 1, 5).await.unwrap());
    assert!(!add(&mut tx, "a", owner(), 1, 5).await.unwrap());
    let account = find(&mut tx, "a").await.unwrap().unwrap();
    assert_eq!((account.version, account.amount), (2, 5));
}

async fn two_concurrent_transactions_lose_no_update(backend: Backend) {
    let store = store(backend, &World::real()).await;
    let mut tx = store.begin().await.unwrap();
    open(&mut tx, "a", owner(), 0).await.unwrap();
    tx.commit().await.unwrap();
    let mut first = store.begin().await.unwrap();
    let seen = find(&mut first, "a").await.unwrap().unwrap();
    let second = tokio::spawn({
        let store = store.clone();
        async move {
            let mut tx = store.begin().await.unwrap();
            let seen = find(&mut tx, "a").await.unwrap().unwrap();
            assert!(add(&mut tx, "a", owner(), seen.version, 10).await.unwrap());
            tx.commit().await.unwrap();
        }
    });
    tokio::task::yield_now().await;
    assert!(add(&mut first, "a", owner(), seen.version, 1).await.unwrap());
    first.commit().await.unwrap();
    second.await.unwrap();
    let account = find(&mut store.begin().await.unwrap(), "a").await.unwrap().unwrap();
    assert_eq!((account.version, account.amount), (3, 11));
}

async fn a_second_insert_waits_and_conflicts_only_if_the_first_commits(backend: Backend) {
    let store = store(backend, &World::real()).await;
    for (commits, second_succeeds) in [(true, false), (false, true)] {
        let name = format!("commits {commits}");
        let mut first = store.begin().await.unwrap();
        open(&mut first, &name, owner(), 0).await.unwrap();
        let second = tokio::spawn({
            let (store, name) = (store.clone(), name.clone());
            async move { open(&mut store.begin().await.unwrap(), &name, owner(), 0).await.is_ok() }
        });
        tokio::task::yield_now().await;
        if commits {
            first.commit().await.unwrap()
        } else {
            drop(first)
        }
        assert_eq!(second.await.unwrap(), second_succeeds, "{name}");
    }
}

async fn a_message_is_recorded_once_for_each_consumer(backend: Backend) {
    let store = store(backend, &World::real()).await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.record_processed("c1", &["x", "y", "x"]).await.unwrap().len(), 2);
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let new = tx.record_processed("c1", &["x", "z"]).await.unwrap();
    assert_eq!(new.into_iter().collect::<Vec<_>>(), ["z"]);
    assert_eq!(tx.record_processed("c2", &["x"]).await.unwrap().len(), 1);
}

async fn a_rollback_removes_the_inbox_record(backend: Backend) {
    let store = store(backend, &World::real()).await;
    let mut tx = store.begin().await.unwrap();
    tx.record_processed("c", &["x"]).await.unwrap();
    drop(tx);
    assert_eq!(store.begin().await.unwrap().record_processed("c", &["x"]).await.unwrap().len(), 1);
}

async fn a_hundred_concurrent_transactions_all_count(backend: Backend) {
    let store = store(backend, &World::real()).await;
    let mut tx = store.begin().await.unwrap();
    open(&mut tx, "a", owner(), 0).await.unwrap();
    tx.commit().await.unwrap();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let store = store.clone();
        all.spawn(async move {
            let mut tx = store.begin().await.unwrap();
            let seen = find(&mut tx, "a").await.unwrap().unwrap();
            assert!(add(&mut tx, "a", owner(), seen.version, 1).await.unwrap());
            tx.commit().await.unwrap();
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    assert_eq!(find(&mut store.begin().await.unwrap(), "a").await.unwrap().unwrap().amount, 100);
}

async fn a_transaction_that_conflicts_is_retried_a_bounded_number_of_times(backend: Backend) {
    let store = store(backend, &World::real()).await;
    let serialization = || StoreError::Serialization("a test".to_owned());
    let conflict = || StoreError::Conflict { constraint: "a_test".to_owned() };
    let cases: [(Retry, &(dyn Fn() -> StoreError + Sync), u32); 4] = [
        (Retry::Serialization, &serialization, 6),
        (Retry::Serialization, &conflict, 1),
        (Retry::SerializationOrConflict, &serialization, 4),
        (Retry::SerializationOrConflict, &conflict, 4),
    ];
    for (retry, failure, expected) in cases {
        let mut tries = 0;
        let outcome = store.transact(retry, |mut tx| {
            tries += 1;
            async move {
                open(&mut tx, "a", owner(), 5).await?;
                Err::<(), _>(failure())
            }
        });
        assert!(outcome.await.is_err());
        assert_eq!(tries, expected, "{retry:?} {:?}", failure());
    }
    // The last try succeeds, in a task of its own: the future can be sent to another thread.
    let retried = tokio::spawn({
        let store = store.clone();
        async move {
            let mut tries = 0;
            let work = |mut tx: Transaction<Tables>| {
                tries += 1;
                async move {
                    open(&mut tx, "a", owner(), tries).await?;
                    if tries <= 5 { Err(StoreError::Serialization("a test".to_owned())) } else { tx.commit().await }
                }
            };
            store.transact(Retry::Serialization, work).await
        }
    });
    retried.await.unwrap().unwrap();
    assert_eq!(find(&mut store.begin().await.unwrap(), "a").await.unwrap().unwrap().amount, 6);
}

async fn migrations_may_run_again(backend: Backend) {
    if backend == Backend::Memory {
        // Nothing to migrate: opening twice gives two stores, each empty.
        let world = World::real();
        let (one, two) = (store(backend, &world).await, store(backend, &world).await);
        let mut tx = one.begin().await.unwrap();
        open(&mut tx, "a", owner(), 0).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(find(&mut two.begin().await.unwrap(), "a").await.unwrap(), None);
        return;
    }
    let (url, world) = (testing::database::fresh().await, World::real());
    let pod = "test".into();
    let start = || Store::<Tables>::postgres(&world, &pod, &url, "accounts", &MIGRATIONS, 2);
    let (one, two) = tokio::join!(start(), start());
    let mut tx = one.unwrap().begin().await.unwrap();
    open(&mut tx, "a", owner(), 0).await.unwrap();
    tx.commit().await.unwrap();
    assert!(find(&mut two.unwrap().begin().await.unwrap(), "a").await.unwrap().is_some());
    assert!(find(&mut start().await.unwrap().begin().await.unwrap(), "a").await.unwrap().is_some());
}

async fn a_purge_keeps_young_rows(backend: Backend) {
    let past = World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1);
    let store = store(backend, &past).await;
    let mut tx = store.begin().await.unwrap();
    tx.record_processed("c", &["x"]).await.unwrap();
    tx.commit().await.unwrap();
    store.purge().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.record_processed("c", &["x"]).await.unwrap().len(), 0, "a young record stays");
}

/// The server, or the connection to it, goes away between the connect and the first reply. A retry may succeed, and no message
/// is at fault.
#[tokio::test]
async fn a_connection_that_ends_during_the_handshake_is_unavailability() {
    use sqlx::Connection;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    for answer in [&b""[..], &b"\0"[..], &b"N"[..], &b"NR\0\0"[..]] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://nobody@{}/nothing", listener.local_addr().unwrap());
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = [0; 8];
            socket.read_exact(&mut asked).await.unwrap();
            socket.write_all(answer).await.unwrap();
        };
        let (connected, ()) = tokio::join!(sqlx::PgConnection::connect(&url), serve);
        let error = StoreError::from(connected.unwrap_err());
        assert!(matches!(error, StoreError::Unavailable(_)), "{answer:?}: {error:?}");
    }
}
