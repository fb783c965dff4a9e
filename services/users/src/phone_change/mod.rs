//! The change of an account's phone number: a code is sent to the old number and another one to the new number, and both come back together.
//! Pure; `rows` has the table, `routes` the routes.
//!
//! A change belongs to its user and has an id, so that nobody else touches its tries. Its codes are no sign-in codes: neither kind is good for
//! the other. Whose number the new one is, nobody learns before its code is right. Without the old number there is no change: whoever has
//! lost it needs an operator.

pub(crate) mod routes;
pub(crate) mod rows;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use chrono::{DateTime, Duration, Utc};
use platform::Tokens;
use streams::UserId;
use uuid::Uuid;

use crate::sign_in::otp::CODE_LIFE_S;
use crate::sign_in::phone::Phone;

/// Wrong pairs of codes after which the right one is dead too.
const TRIES: i16 = 5;

/// The row of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PhoneChange {
    pub(crate) user: UserId,
    pub(crate) change_id: Uuid,
    pub(crate) old_phone: Phone,
    pub(crate) new_phone: Phone,
    pub(crate) old_hash: Vec<u8>,
    pub(crate) new_hash: Vec<u8>,
    pub(crate) tries: i16,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) done_at: Option<DateTime<Utc>>,
}

/// What a client presents.
#[derive(Debug, Clone)]
pub(crate) struct PresentedCodes {
    pub(crate) change_id: Uuid,
    pub(crate) old_code: String,
    pub(crate) new_code: String,
}

/// How two codes compare with those of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Right,
    /// Right, and the phone has changed before.
    Repeated,
    /// At least one is wrong: one try less.
    Wrong,
    /// There is nothing to compare with.
    Dead,
}

impl PhoneChange {
    pub(crate) fn new(
        tokens: &Tokens,
        (user, change_id): (UserId, Uuid),
        (old_phone, old_code): (Phone, &str),
        (new_phone, new_code): (Phone, &str),
        now: DateTime<Utc>,
    ) -> Self {
        let hash =
            |side, phone: &Phone, code| tokens.keyed_hash(PURPOSE, &hashed(change_id, side, phone, code)).to_vec();
        Self {
            user,
            change_id,
            old_hash: hash("old", &old_phone, old_code),
            new_hash: hash("new", &new_phone, new_code),
            old_phone,
            new_phone,
            tries: TRIES,
            expires_at: now + Duration::seconds(CODE_LIFE_S),
            done_at: None,
        }
    }

    /// Both codes are compared, in constant time, whichever is wrong.
    pub(crate) fn compare(&self, tokens: &Tokens, presented: &PresentedCodes, now: DateTime<Utc>) -> Comparison {
        if self.change_id != presented.change_id || self.expires_at <= now || self.tries <= 0 {
            return Comparison::Dead;
        }
        let is_right = |side, phone, code, stored: &[u8]| {
            let hashes = tokens.keyed_hashes(PURPOSE, &hashed(self.change_id, side, phone, code));
            hashes.iter().fold(false, |is, hash| verify_slices_are_equal(stored, hash).is_ok() | is)
        };
        let old = is_right("old", &self.old_phone, &presented.old_code, &self.old_hash);
        let new = is_right("new", &self.new_phone, &presented.new_code, &self.new_hash);
        match (old & new, self.done_at) {
            (true, None) => Comparison::Right,
            (true, Some(_)) => Comparison::Repeated,
            (false, _) => Comparison::Wrong,
        }
    }
}

const PURPOSE: &str = "phone-change";

fn hashed(change_id: Uuid, side: &str, phone: &Phone, code: &str) -> String {
    format!("{change_id}:{side}:{}:{code}", phone.as_str())
}

#[cfg(test)]
mod tests {
    use platform::World;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::seconds(seconds)
    }

    fn phone(text: &str) -> Phone {
        Phone::parse(text).unwrap()
    }

    #[test]
    fn both_codes_of_this_change_are_needed() {
        let tokens = Tokens::new(&World::seeded(at(0), 1), &[7; 32]).unwrap();
        let (user, id) = (UserId(Uuid::from_u128(1)), Uuid::from_u128(2));
        let (old, new) = (phone("+14155550132"), phone("+14155550133"));
        let change = PhoneChange::new(&tokens, (user, id), (old, "111111"), (new, "222222"), at(0));
        let done = PhoneChange { done_at: Some(at(1)), ..change.clone() };
        let used = PhoneChange { tries: 0, ..change.clone() };
        for (change, id, old_code, new_code, now, expected) in [
            (&change, 2, "111111", "222222", 1, Comparison::Right),
            (&change, 2, "111111", "111111", 1, Comparison::Wrong),
            (&change, 2, "222222", "222222", 1, Comparison::Wrong),
            (&change, 2, "222222", "111111", 1, Comparison::Wrong),
            (&change, 2, "", "", 1, Comparison::Wrong),
            (&change, 3, "111111", "222222", 1, Comparison::Dead),
            (&change, 2, "111111", "222222", CODE_LIFE_S, Comparison::Dead),
            (&done, 2, "111111", "222222", 2, Comparison::Repeated),
            (&done, 2, "111111", "333333", 2, Comparison::Wrong),
            (&used, 2, "111111", "222222", 1, Comparison::Dead),
        ] {
            let presented = PresentedCodes {
                change_id: Uuid::from_u128(id),
                old_code: old_code.to_owned(),
                new_code: new_code.to_owned(),
            };
            assert_eq!(change.compare(&tokens, &presented, at(now)), expected, "{old_code} {new_code} at {now}");
        }
    }
}
