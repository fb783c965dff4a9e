//! Access tokens as their holders and their forgers send them, and PINs across a change of the secret.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use streams::sign_ins::EndedSignIn;
use streams::{RideId, SignInId, UserId};
use uuid::Uuid;

use super::*;

const SECRET: &[u8] = &[7; 32];
const OTHER: &[u8] = &[8; 32];

fn world() -> World {
    World::seeded("2026-01-01T00:00:00Z".parse().unwrap(), 1)
}

#[tokio::test(start_paused = true)]
async fn a_token_is_valid_until_it_expires_and_for_its_secret_only() {
    let world = world();
    let tokens = Tokens::new(&world, SECRET).unwrap();
    let (user, sign_in): (UserId, SignInId) = (world.id(), world.id());
    let expires_at = world.now() + TimeDelta::seconds(ACCESS_TOKEN_S);
    let (token, plain) = (tokens.access_of(user, sign_in, expires_at), tokens.access(user));
    assert_eq!(tokens.verify(&token), Ok(Access { user, sign_in: Some(sign_in), expires_at }));
    assert_eq!(tokens.verify(&plain), Ok(Access { user, sign_in: None, expires_at }));
    assert!(Tokens::new(&world, OTHER).unwrap().verify(&token).is_err());
    assert!(tokens.verify("a.b.c").is_err());
    tokio::time::advance(Duration::from_secs(ACCESS_TOKEN_S as u64)).await;
    assert!(tokens.verify(&token).unwrap_err().message.contains("expired"));
}

#[tokio::test]
async fn a_token_has_the_claims_of_rfc_9068() {
    let world = world();
    let tokens = Tokens::new(&world, SECRET).unwrap();
    let (user, sign_in): (UserId, SignInId) = (world.id(), world.id());
    let token = tokens.access_of(user, sign_in, world.now() + TimeDelta::seconds(60));
    let header = jsonwebtoken::decode_header(&token).unwrap();
    assert_eq!((header.typ.as_deref(), header.kid.unwrap().len()), (Some("at+jwt"), 8));
    let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(&token).unwrap().claims;
    let iat = world.now().timestamp();
    let expected = json!({
        "iss": "rideshare", "aud": "rideshare", "sub": user, "sid": sign_in, "iat": iat, "nbf": iat - 30, "exp": iat + 60,
    });
    assert_eq!(claims, expected);
}

#[tokio::test]
async fn every_claim_is_checked_when_it_is_there() {
    let world = world();
    let tokens = Tokens::new(&world, SECRET).unwrap();
    let (user, now) = (world.id::<UserId>(), world.now().timestamp());
    let key = &tokens.keys.signing()[0];
    let (kid, unknown) = (Some(key.kid.as_str()), Some("00000000"));
    let signed = |with: &[u8], typ: Option<&str>, kid: Option<&str>, change: Value| {
        let header = Header { typ: typ.map(Into::into), kid: kid.map(Into::into), ..Header::new(Algorithm::HS256) };
        let mut claims = json!({"sub": user, "iat": now, "exp": now + 60});
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(with)).unwrap()
    };
    let ours = json!({"iss": "rideshare", "aud": "rideshare"});
    let and = |name: &str, value: Value| {
        let mut claims = ours.clone();
        claims[name] = value;
        claims
    };
    let typ = Some("at+jwt");
    for (token, accepted, what) in [
        (signed(&key.key, typ, kid, ours.clone()), true, "as this version issues it"),
        (
            signed(&key.key, Some("AT+JWT"), kid, and("aud", json!(["x", "rideshare"]))),
            true,
            "RFC 7519 allows this too",
        ),
        (signed(&key.key, typ, kid, and("nbf", json!(now))), true, "valid from now on"),
        (signed(&key.key, typ, kid, and("nbf", json!(now + 1))), false, "valid in a second"),
        (signed(&key.key, typ, kid, and("nbf", json!("now"))), false, "a malformed nbf"),
        (signed(&key.key, typ, kid, and("exp", json!(now))), false, "expired"),
        (signed(&key.key, typ, kid, and("exp", json!(i64::MAX))), false, "beyond the calendar"),
        (signed(&key.key, typ, kid, and("sid", json!("x"))), false, "a malformed sid"),
        (signed(&key.key, typ, kid, and("aud", json!("another"))), false, "for another audience"),
        (signed(&key.key, typ, kid, and("iss", json!("another"))), false, "of another issuer"),
        (signed(&key.key, typ, kid, json!({})), false, "with a kid, but neither iss nor aud"),
        (signed(&key.key, Some("JWT"), kid, ours.clone()), false, "another kind of token"),
        (signed(&key.key, None, kid, ours.clone()), false, "no kind"),
        (signed(&key.key, typ, unknown, ours.clone()), false, "an unknown kid"),
        (signed(&key.key, typ, None, ours.clone()), false, "the derived key, but no kid"),
        (signed(SECRET, typ, kid, ours.clone()), false, "the secret, but a kid"),
        (signed(SECRET, Some("JWT"), None, json!({})), true, "as the version before issued it"),
        (signed(SECRET, None, None, and("sid", json!(Uuid::nil()))), true, "an operator's tool"),
        (signed(SECRET, Some("JWT"), None, json!({"aud": "another"})), false, "for another audience, old"),
        (signed(SECRET, Some("JWT"), None, json!({"iss": "another"})), false, "of another issuer, old"),
        (signed(SECRET, Some("JWT"), None, json!({"nbf": now + 1})), false, "valid in a second, old"),
        (signed(SECRET, Some("dpop+jwt"), None, json!({})), false, "another kind of token, old"),
        (signed(OTHER, Some("JWT"), None, json!({})), false, "another secret"),
    ] {
        assert_eq!(tokens.verify(&token).is_ok(), accepted, "{what}");
    }
}

#[tokio::test]
async fn a_token_of_an_ended_sign_in_is_refused_by_every_clone() {
    let world = world();
    let tokens = Tokens::new(&world, SECRET).unwrap();
    let (user_id, sign_in_id) = (world.id(), world.id());
    let token = tokens.access_of(user_id, sign_in_id, world.now() + TimeDelta::seconds(60));
    let clone = tokens.clone();
    assert!(clone.verify(&token).is_ok());
    tokens.ended().insert(&[EndedSignIn { sign_in_id, user_id, ended_at: world.now() }], world.now());
    assert!(clone.verify(&token).unwrap_err().message.contains("ended"));
    assert!(clone.verify(&tokens.access(user_id)).is_ok(), "another token of the user");
}

#[tokio::test]
async fn a_secret_changes_in_two_steps_and_no_token_is_refused() {
    let world = world();
    let user = world.id::<UserId>();
    let with = |secrets: &[&[u8]]| Tokens::with_secrets(&world, secrets, secrets).unwrap();
    // First every process accepts the new secret, then every process signs with it.
    let (before, between, after) = (with(&[SECRET]), with(&[SECRET, OTHER]), with(&[OTHER, SECRET]));
    for (signs, verifies) in [(&before, &between), (&between, &before), (&between, &after), (&after, &between)] {
        assert!(verifies.verify(&signs.access(user)).is_ok());
    }
    assert!(after.verify(&before.access(user)).is_ok());
    assert!(before.verify(&after.access(user)).is_err());
}

#[tokio::test]
async fn the_pin_of_a_live_ride_outlives_a_change_of_the_secret() {
    let world = world();
    let ride = world.id::<RideId>();
    let old = Tokens::new(&world, SECRET).unwrap();
    let pin = old.ride_pin(ride);
    assert!(pin.len() == 4 && old.is_ride_pin(ride, &pin) && !old.is_ride_pin(ride, ""));
    let changed = Tokens::with_secrets(&world, &[OTHER, SECRET], &[OTHER, SECRET]).unwrap();
    assert!(changed.is_ride_pin(ride, &pin) && changed.is_ride_pin(ride, &changed.ride_pin(ride)));
    let separate = Tokens::with_secrets(&world, &[OTHER], &[SECRET]).unwrap();
    assert_eq!(separate.ride_pin(ride), pin, "a signing secret of its own changes no PIN");
    // The PIN of the version before this one, computed by Python: hmac(b"\7" * 32, b"ride-pin\0" + id), SHA-256.
    let ride: RideId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    assert!(old.is_ride_pin(ride, "6527"));
    let right = (0..10_000).filter(|n| old.is_ride_pin(ride, &format!("{n:04}"))).count();
    assert_eq!(right, 1, "one PIN for one secret");
}
