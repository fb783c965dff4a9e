//! One-time codes: how long and how often one may be presented, and how many a phone may request. The code itself is
//! stored nowhere, only its keyed hash.

pub(crate) mod rows;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use chrono::{DateTime, Duration, Utc};
use platform::{Tokens, World};

use super::phone::Phone;

pub(crate) const CODE_LIFE_S: i64 = 300;
/// Wrong codes after which the right one is dead too.
const TRIES: i16 = 5;
/// Codes that a phone may request in any [`REQUEST_WINDOW_S`].
const REQUESTS_MAX: usize = 5;
const REQUEST_WINDOW_S: i64 = 3_600;

/// The one live code of a phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Otp {
    pub(crate) hash: Vec<u8>,
    pub(crate) tries_left: i16,
    pub(crate) expires_at: DateTime<Utc>,
}

/// How a presented code compares with the live one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodeMatch {
    Right,
    /// The caller stores the tries that are left.
    Wrong {
        tries_left: i16,
    },
    /// There is no live code.
    Dead,
}

impl Otp {
    pub(crate) fn new(hash: [u8; 32], now: DateTime<Utc>) -> Self {
        Self { hash: hash.to_vec(), tries_left: TRIES, expires_at: now + Duration::seconds(CODE_LIFE_S) }
    }

    /// Compares in constant time with the hash of a presented code.
    pub(crate) fn compare(&self, presented: &[u8; 32], now: DateTime<Utc>) -> CodeMatch {
        if self.tries_left <= 0 || self.expires_at <= now {
            return CodeMatch::Dead;
        }
        match verify_slices_are_equal(&self.hash, presented) {
            Ok(()) => CodeMatch::Right,
            Err(_) => CodeMatch::Wrong { tries_left: self.tries_left - 1 },
        }
    }
}

/// A new code: six digits, all equally likely.
pub(crate) fn code(world: &World) -> String {
    format!("{:06}", world.below(1_000_000))
}

/// What is stored of a code: a hash under the server's key, over the phone too.
pub(crate) fn hash(tokens: &Tokens, phone: &Phone, code: &str) -> [u8; 32] {
    tokens.keyed_hash("otp", &format!("{}:{code}", phone.as_str()))
}

/// The beginning of the window in which requests count.
pub(crate) fn window_start(now: DateTime<Utc>) -> DateTime<Utc> {
    now - Duration::seconds(REQUEST_WINDOW_S)
}

/// Seconds until a phone may request another code; `None` if it may now. `requests` are the times of earlier ones, oldest
/// first.
pub(crate) fn wait_s(requests: &[DateTime<Utc>], now: DateTime<Utc>) -> Option<u64> {
    let counted: Vec<_> = requests.iter().filter(|at| **at > window_start(now)).collect();
    let oldest = **counted.get(counted.len().checked_sub(REQUESTS_MAX)?)?;
    let left_ms = (oldest + Duration::seconds(REQUEST_WINDOW_S) - now).num_milliseconds();
    Some(u64::try_from(left_ms).unwrap_or(0).div_ceil(1_000).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    #[test]
    fn a_code_lives_five_minutes_and_five_tries() {
        let mut otp = Otp::new([1; 32], at(0));
        assert_eq!(otp.compare(&[1; 32], at(0)), CodeMatch::Right);
        assert_eq!(otp.compare(&[1; 32], at(CODE_LIFE_S - 1)), CodeMatch::Right);
        assert_eq!(otp.compare(&[1; 32], at(CODE_LIFE_S)), CodeMatch::Dead);
        for left in (0..TRIES).rev() {
            assert_eq!(otp.compare(&[2; 32], at(0)), CodeMatch::Wrong { tries_left: left });
            otp.tries_left = left;
        }
        assert_eq!(otp.compare(&[1; 32], at(0)), CodeMatch::Dead);
    }

    #[test]
    fn a_phone_may_request_five_codes_an_hour_and_learns_when_the_next() {
        let requests: Vec<_> = (0..5).map(|n| at(n * 60)).collect();
        assert_eq!(wait_s(&[], at(0)), None);
        assert_eq!(wait_s(&requests[..4], at(300)), None);
        assert_eq!(wait_s(&requests, at(300)), Some(3_300));
        assert_eq!(wait_s(&requests, at(3_599)), Some(1));
        assert_eq!(wait_s(&requests, at(3_600)), None);
        // Six, which an older, higher limit allowed: two must leave the window.
        let six: Vec<_> = (0..6).map(|n| at(n * 60)).collect();
        assert_eq!(wait_s(&six, at(300)), Some(3_360));
    }

    #[test]
    fn a_code_is_six_digits_and_its_hash_depends_on_the_phone() {
        let world = World::seeded(at(0), 7);
        let tokens = Tokens::new(&world, &[7; 32]).unwrap();
        let (one, other) = (Phone::parse("+14155550132").unwrap(), Phone::parse("+14155550133").unwrap());
        for _ in 0..100 {
            let code = code(&world);
            assert!(code.len() == 6 && code.bytes().all(|b| b.is_ascii_digit()), "{code}");
            assert_ne!(hash(&tokens, &one, &code), hash(&tokens, &other, &code));
        }
    }
}
