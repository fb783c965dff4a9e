//! The life of a sign-in as a table.

use uuid::Uuid;

use super::*;

fn at(seconds: f64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::milliseconds((seconds * 1_000.0) as i64)
}

const DAY: f64 = 86_400.0;

/// Begun at 0, with a life of 90 days; its token 4 is the newest, made at 1,000 s.
fn sign_in() -> SignIn {
    let (id, user) = (SignInId(Uuid::nil()), UserId(Uuid::nil()));
    let new = SignIn::new(id, user, Some("one".to_owned()), vec![1; 16], TimeDelta::days(90), at(0.0));
    SignIn { number: 4, rotated_at: at(1_000.0), seen_at: at(1_000.0), ..new }
}

#[test]
fn the_newest_token_rotates_the_one_before_repeats_and_an_older_one_ends_the_sign_in() {
    let live = sign_in();
    let ended = SignIn { ended_at: Some(at(1_001.0)), ..live.clone() };
    let old = SignIn { ends_at: at(1_001.0), ..live.clone() };
    for (sign_in, number, seconds, expected) in [
        (&live, 4, 1_000.0, Refresh::Rotated),
        (&live, 4, 1_000.0 + 29.9 * DAY, Refresh::Rotated),
        (&live, 4, 1_000.0 + 30.0 * DAY, Refresh::Invalid),
        (&live, 3, 1_000.0, Refresh::Repeated),
        (&live, 3, 1_030.0, Refresh::Repeated),
        (&live, 3, 1_030.1, Refresh::Reused),
        (&live, 2, 1_000.0, Refresh::Reused),
        (&live, 0, 1_000.0, Refresh::Reused),
        (&live, PREVIOUS_VERSION, 1_000.0, Refresh::Reused),
        // Signed by us, but never given out: the row is from a backup.
        (&live, 5, 1_000.0, Refresh::Invalid),
        (&ended, 4, 1_002.0, Refresh::Invalid),
        (&ended, 3, 1_002.0, Refresh::Reused),
        (&old, 4, 1_000.5, Refresh::Rotated),
        (&old, 4, 1_001.0, Refresh::Invalid),
        (&old, 3, 1_001.0, Refresh::Reused),
    ] {
        let mut changed = sign_in.clone();
        assert_eq!(
            changed.refresh(number, None, at(seconds)),
            expected,
            "token {number} at {seconds} s of {sign_in:?}"
        );
        let keeps_row = !matches!(expected, Refresh::Rotated | Refresh::Repeated);
        assert_eq!(changed == *sign_in, keeps_row, "token {number} at {seconds} s");
    }
}

#[test]
fn a_rotation_makes_the_next_number_and_a_repeat_makes_none() {
    let mut sign_in = sign_in();
    assert_eq!(sign_in.refresh(4, None, at(2_000.0)), Refresh::Rotated);
    assert_eq!((sign_in.number, sign_in.rotated_at, sign_in.seen_at), (5, at(2_000.0), at(2_000.0)));
    assert_eq!(sign_in.device.as_deref(), Some("one"), "a client without a name changes nothing");
    assert_eq!(sign_in.refresh(4, Some("two".to_owned()), at(2_010.0)), Refresh::Repeated);
    assert_eq!((sign_in.number, sign_in.rotated_at, sign_in.seen_at), (5, at(2_000.0), at(2_010.0)));
    assert_eq!(sign_in.device.as_deref(), Some("two"));
    // The client got the successor at last, and uses it.
    assert_eq!(sign_in.refresh(5, None, at(2_011.0)), Refresh::Rotated);
    assert_eq!(sign_in.refresh(4, None, at(2_012.0)), Refresh::Reused);
}

#[test]
fn repeats_at_one_time_are_a_burst_and_repeats_one_after_another_are_none() {
    let mut sign_in = sign_in();
    for (seconds, burst) in [(1_001.0, false), (1_001.2, true), (1_001.25, true), (1_002.0, false), (1_003.0, false)] {
        assert_eq!(sign_in.refresh(3, None, at(seconds)), Refresh::Repeated);
        assert_eq!(sign_in.is_burst(), burst, "at {seconds} s");
    }
    sign_in.refresh(3, None, at(1_003.1));
    assert!(sign_in.is_burst());
    sign_in.refresh(4, None, at(1_003.2));
    assert!(!sign_in.is_burst(), "of the new token there is none yet");
}

#[test]
fn an_access_token_does_not_outlive_its_sign_in() {
    let sign_in = sign_in();
    let life = TimeDelta::seconds(900);
    assert_eq!(sign_in.access_until(life, at(0.0)), at(900.0));
    assert_eq!(sign_in.access_until(life, sign_in.ends_at - TimeDelta::seconds(5)), sign_in.ends_at);
}

#[test]
fn the_name_of_a_device_is_short_and_printable() {
    assert_eq!(device("  Rider/3.1 (Android 15) ").as_deref(), Some("Rider/3.1 (Android 15)"));
    assert_eq!(device("a\tb\u{7}c").as_deref(), Some("abc"));
    assert_eq!(device(&"ü".repeat(300)), Some("ü".repeat(100)));
    assert_eq!((device(""), device(" \t ")), (None, None));
}
