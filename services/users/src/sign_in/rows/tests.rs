//! The rows of sign-ins on both stores, and those of the version before on PostgreSQL.

use platform::{Store, Tokens, World};
use sqlx::PgConnection;
use testing::{Backend, on_both_stores};
use uuid::Uuid;

use super::*;
use crate::account;
use crate::sign_in::otp::{self, Code};
use crate::sign_in::phone::Phone;
use crate::sign_in::{PREVIOUS_VERSION, Refresh, previous_version};

on_both_stores!(
    a_sign_in_is_read_as_it_was_written,
    the_live_sign_ins_of_a_user_are_listed,
    ending_finds_ones_own_live_sign_ins_only,
    ended_sign_ins_are_read_in_pages_by_time,
    a_purge_deletes_only_what_is_over,
    a_purge_deletes_old_codes,
);

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn world() -> World {
    World::seeded(DateTime::UNIX_EPOCH, 1)
}

/// A store with the users 1 and 2.
async fn store(backend: Backend) -> Store<Tables> {
    let store = backend.store::<Tables>(&world(), "test", "users", &crate::MIGRATIONS).await;
    let mut tx = store.begin().await.unwrap();
    for n in [1, 2] {
        account::rows::get_or_insert(&mut tx, &phone(n), user(n), now()).await.unwrap();
    }
    tx.commit().await.unwrap();
    store
}

fn phone(n: u128) -> Phone {
    Phone::parse(&format!("+1415555013{n}")).unwrap()
}

fn user(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

fn id(n: u128) -> SignInId {
    SignInId(Uuid::from_u128(n))
}

/// The sign-in `n` of the user `owner`, begun `seconds` after [`now`].
fn sign_in(n: u128, owner: u128, seconds: i64) -> SignIn {
    let (device, at) = (Some(format!("device {n}")), now() + TimeDelta::seconds(seconds));
    SignIn::new(id(n), user(owner), device, vec![u8::try_from(n).unwrap(); 16], TimeDelta::days(90), at)
}

async fn put_all(tx: &mut Transaction<Tables>, sign_ins: &[SignIn]) {
    for one in sign_ins {
        put(tx, one).await.unwrap();
    }
}

async fn a_sign_in_is_read_as_it_was_written(backend: Backend) {
    let store = store(backend).await;
    let mut tx = store.begin().await.unwrap();
    let mut one = sign_in(1, 1, 0);
    put_all(&mut tx, &[one.clone(), sign_in(2, 2, 0)]).await;
    assert_eq!(lock(&mut tx, id(1)).await.unwrap(), Some(one.clone()));
    assert_eq!(one.refresh(0, None, now() + TimeDelta::seconds(10)), Refresh::Rotated);
    assert_eq!(one.refresh(0, Some("new".to_owned()), now() + TimeDelta::seconds(11)), Refresh::Repeated);
    put(&mut tx, &one).await.unwrap();
    assert_eq!(lock(&mut tx, id(1)).await.unwrap(), Some(one));
    assert_eq!(lock(&mut tx, id(3)).await.unwrap(), None);
    assert!(is_of(&mut tx, id(1), user(1)).await.unwrap() && !is_of(&mut tx, id(1), user(2)).await.unwrap());
}

async fn the_live_sign_ins_of_a_user_are_listed(backend: Backend) {
    let store = store(backend).await;
    let mut tx = store.begin().await.unwrap();
    let ended = SignIn { ended_at: Some(now()), ..sign_in(3, 1, 0) };
    let over = SignIn { ends_at: now() + TimeDelta::seconds(9), ..sign_in(4, 1, 0) };
    put_all(&mut tx, &[sign_in(1, 1, 1), sign_in(2, 1, 5), ended, over, sign_in(5, 2, 0)]).await;
    let mut listed = async |seconds: i64| {
        let live = live_of(&mut tx, user(1), now() + TimeDelta::seconds(seconds)).await.unwrap();
        live.iter().map(|one| one.id.0.as_u128()).collect::<Vec<_>>()
    };
    assert_eq!(listed(8).await, [2, 1, 4], "those seen last first");
    assert_eq!(listed(9).await, [2, 1]);
    assert_eq!(listed(30 * 86_400 + 1).await, [2]);
    for n in 10..=120 {
        put(&mut tx, &sign_in(n, 2, i64::try_from(n).unwrap())).await.unwrap();
    }
    let live = live_of(&mut tx, user(2), now()).await.unwrap();
    assert_eq!((live.len(), live[0].id, live[99].id), (SIGN_INS_MAX, id(120), id(21)));
}

async fn ending_finds_ones_own_live_sign_ins_only(backend: Backend) {
    let store = store(backend).await;
    let mut tx = store.begin().await.unwrap();
    put_all(&mut tx, &[sign_in(1, 1, 0), sign_in(2, 1, 0), sign_in(3, 1, 0), sign_in(4, 2, 0)]).await;
    let ended = |n, ended_at| EndedSignIn { sign_in_id: id(n), user_id: user(1), ended_at };
    let (first, later) = (now() + TimeDelta::seconds(1), now() + TimeDelta::seconds(2));
    assert_eq!(end(&mut tx, user(1), Ending::One(id(4)), first).await.unwrap(), [], "another user's");
    assert_eq!(end(&mut tx, user(1), Ending::One(id(2)), first).await.unwrap(), [ended(2, first)]);
    assert_eq!(end(&mut tx, user(1), Ending::One(id(2)), later).await.unwrap(), [], "a repeat");
    assert_eq!(end(&mut tx, user(1), Ending::All, later).await.unwrap(), [ended(1, later), ended(3, later)]);
    assert_eq!(lock(&mut tx, id(2)).await.unwrap().unwrap().ended_at, Some(first));
    assert_eq!(lock(&mut tx, id(4)).await.unwrap().unwrap().ended_at, None);
}

async fn ended_sign_ins_are_read_in_pages_by_time(backend: Backend) {
    let store = store(backend).await;
    let mut tx = store.begin().await.unwrap();
    put_all(&mut tx, &[sign_in(1, 1, 0), sign_in(2, 1, 0), sign_in(3, 1, 0), sign_in(4, 2, 0)]).await;
    let at = |seconds| now() + TimeDelta::seconds(seconds);
    end(&mut tx, user(1), Ending::One(id(3)), at(5)).await.unwrap();
    end(&mut tx, user(1), Ending::All, at(6)).await.unwrap();
    end(&mut tx, user(2), Ending::All, at(6)).await.unwrap();
    let mut after = async |seconds: i64, n: u128| {
        let page = ended_after(&mut tx, (at(seconds), id(n))).await.unwrap();
        page.iter().map(|one| one.sign_in_id.0.as_u128()).collect::<Vec<_>>()
    };
    assert_eq!(after(0, 0).await, [3, 1, 2, 4]);
    assert_eq!(after(5, 3).await, [1, 2, 4]);
    assert_eq!(after(6, 1).await, [2, 4]);
    assert_eq!(after(6, 4).await, [0; 0]);
}

async fn a_purge_deletes_only_what_is_over(backend: Backend) {
    let store = store(backend).await;
    let mut tx = store.begin().await.unwrap();
    let short = SignIn { ends_at: now() + TimeDelta::hours(2), ..sign_in(3, 1, 0) };
    put_all(&mut tx, &[sign_in(1, 1, 0), sign_in(2, 1, 1), short, sign_in(4, 2, 0)]).await;
    end(&mut tx, user(2), Ending::All, now()).await.unwrap();
    let mut left = Vec::new();
    for after in [0, 7_199, 7_200, 86_399, 86_400, 30 * 86_400] {
        purge(&mut tx, now() + TimeDelta::seconds(after)).await.unwrap();
        let mut count = 0;
        for n in 1..=4 {
            count += usize::from(lock(&mut tx, id(n)).await.unwrap().is_some());
        }
        left.push(count);
    }
    assert_eq!(left, [4, 4, 3, 3, 2, 1]);
    assert_eq!(ended_after(&mut tx, (DateTime::UNIX_EPOCH, id(0))).await.unwrap(), []);
}

async fn a_purge_deletes_old_codes(backend: Backend) {
    let store = store(backend).await;
    let mut tx = store.begin().await.unwrap();
    for n in [1, 2] {
        let started = now() + TimeDelta::seconds(i64::try_from(n).unwrap() - 1);
        let code = Code::new(Uuid::from_u128(n), [0; 16], [u8::try_from(n).unwrap(); 32], None, started);
        otp::rows::insert(&mut tx, &phone(n), &code).await.unwrap();
    }
    let mut left = Vec::new();
    for after in [299, 300, 301] {
        otp::rows::purge(&mut tx, now() + TimeDelta::seconds(after)).await.unwrap();
        let mut count = 0;
        for n in [1, 2] {
            count += otp::rows::of_phone(&mut tx, &phone(n)).await.unwrap().len();
        }
        left.push(count);
    }
    assert_eq!(left, [2, 1, 0]);
}

/// A refresh token of the version before, as its processes wrote it.
async fn insert_token(pg: &mut PgConnection, hash: Vec<u8>, sign_in: u128, used_at: Option<DateTime<Utc>>) {
    sqlx::query("insert into refresh_tokens (token_hash, sign_in_id, expires_at, used_at) values ($1, $2, $3, $4)")
        .bind(hash)
        .bind(Uuid::from_u128(sign_in))
        .bind(now() + TimeDelta::days(30))
        .bind(used_at)
        .execute(pg)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_refresh_token_of_the_version_before_is_moved_over_once() {
    let store = store(Backend::Postgres).await;
    let tokens = Tokens::new(&world(), &[7; 32]).unwrap();
    // What that version stored: HMAC by the secret itself.
    let (token, used, unknown) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
    let stored = |token: &str| tokens.keyed_hashes("refresh-token", token)[1].to_vec();
    let mut tx = store.begin().await.unwrap();
    let On::Postgres(pg) = tx.on() else { panic!("PostgreSQL") };
    sqlx::query("insert into sign_ins (sign_in_id, user_id, started_at) values ($1, $2, $3)")
        .bind(Uuid::from_u128(1))
        .bind(user(1).0)
        .bind(now())
        .execute(&mut *pg)
        .await
        .unwrap();
    insert_token(pg, stored(&token), 1, None).await;
    insert_token(pg, stored(&used), 1, Some(now())).await;

    let at = |seconds| now() + TimeDelta::seconds(seconds);
    let mut refresh = async |text: &str, seconds: i64| {
        let (salt, life, at) = (vec![3; 16], TimeDelta::days(90), at(seconds));
        let presented = previous_version::presented(&mut tx, &tokens, text, salt, life, at).await.unwrap();
        let (mut sign_in, number) = presented?;
        let outcome = sign_in.refresh(number, None, at);
        if outcome == Refresh::Rotated {
            put(&mut tx, &sign_in).await.unwrap();
            previous_version::set_used(&mut tx, &tokens, text, at).await.unwrap();
        }
        Some((outcome, sign_in.number, sign_in.created_at))
    };
    assert_eq!(refresh(&unknown, 9).await, None);
    assert_eq!(refresh("short", 9).await, None);
    assert_eq!(refresh(&used, 9).await, Some((Refresh::Reused, PREVIOUS_VERSION, now())));
    assert_eq!(refresh(&token, 10).await, Some((Refresh::Rotated, 0, now())));
    assert_eq!(refresh(&token, 40).await, Some((Refresh::Repeated, 0, now())), "the answer may have been lost");
    assert_eq!(refresh(&token, 41).await, Some((Refresh::Reused, 0, now())));
    // Ending it ends it for processes of that version as well.
    end(&mut tx, user(1), Ending::One(id(1)), at(42)).await.unwrap();
    let On::Postgres(pg) = tx.on() else { panic!("PostgreSQL") };
    let row = sqlx::query("select revoked_at from sign_ins").fetch_one(&mut *pg).await.unwrap();
    assert_eq!(row.get::<Option<DateTime<Utc>>, _>("revoked_at"), Some(at(42)));
    previous_version::purge(&mut tx, now() + TimeDelta::days(30)).await.unwrap();
    let On::Postgres(pg) = tx.on() else { panic!("PostgreSQL") };
    let row = sqlx::query("select (select count(*) from sign_ins) + (select count(*) from refresh_tokens) as count");
    assert_eq!(row.fetch_one(&mut *pg).await.unwrap().get::<i64, _>("count"), 0);
}
