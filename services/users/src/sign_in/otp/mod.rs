//! One-time codes: how long one lives, how often it may be compared and by whom. The code itself is stored nowhere, only its
//! keyed hash.
//!
//! A code is bound to its asker: to the id of the request, which only the asker knows, and to the address that asked. What others
//! ask or guess for the same phone uses up neither this code nor its tries.
//!
//! | presented | compared with |
//! |---|---|
//! | with the request's id | that code |
//! | without, from an address that asked | the newest code that this address asked for |
//! | without, from elsewhere | every code of the phone: a phone changes its address between two networks |
//!
//! Each of the three has tries of its own, so that a code is compared at most 15 times, of which a stranger has 5.

pub(crate) mod admission;
pub(crate) mod routes;
pub(crate) mod rows;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use chrono::{DateTime, Duration, Utc};
use platform::{Tokens, World};
use uuid::Uuid;

use super::phone::Phone;

pub(crate) const CODE_LIFE_S: i64 = 300;
/// Wrong codes after which the right one is dead too, for each way to present it.
const TRIES: i16 = 5;
/// The most tries without an id from one address: those of all codes that it may ask for in a burst.
const ASKER_TRIES_MAX: i16 = 25;

/// A keyed hash of the address that asked.
pub(crate) type Asker = [u8; 16];

/// One code that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) request_id: Uuid,
    pub(crate) asker: Vec<u8>,
    pub(crate) hash: Vec<u8>,
    pub(crate) tries: Tries,
    pub(crate) requested_at: DateTime<Utc>,
    pub(crate) expires_at: DateTime<Utc>,
}

/// Comparisons that are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tries {
    /// With the request's id.
    pub(crate) by_id: i16,
    /// Without it, from the asker's address.
    pub(crate) by_asker: i16,
    /// Without it, from addresses that have not asked.
    pub(crate) by_others: i16,
}

/// A code as somebody presents it.
#[derive(Debug, Clone)]
pub(crate) struct Presented {
    /// Every hash that the code may be stored as.
    pub(crate) hashes: Vec<[u8; 32]>,
    pub(crate) request_id: Option<Uuid>,
    pub(crate) asker: Asker,
}

/// How a presented code compares with the live ones of its phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CodeMatch {
    Right,
    /// The caller stores the tries that are left of each code with which it was compared.
    Wrong(Vec<(Uuid, Tries)>),
    /// There was none to compare with.
    Dead,
}

impl Code {
    /// `last` is the newest code of the same phone and asker, if there is one. Its tries without an id are not lost: they count
    /// on, or five wrong codes after five requests would leave the asker without any.
    pub(crate) fn new(request_id: Uuid, asker: Asker, hash: [u8; 32], last: Option<&Self>, now: DateTime<Utc>) -> Self {
        let left = last.filter(|code| code.expires_at > now).map_or(0, |code| code.tries.by_asker);
        let by_asker = left.saturating_add(TRIES).min(ASKER_TRIES_MAX);
        // The newest one is later than the one before, also within a microsecond.
        let requested_at = last.map_or(now, |code| now.max(code.requested_at + Duration::microseconds(1)));
        Self {
            request_id,
            asker: asker.to_vec(),
            hash: hash.to_vec(),
            tries: Tries { by_id: TRIES, by_asker, by_others: TRIES },
            requested_at,
            expires_at: now + Duration::seconds(CODE_LIFE_S),
        }
    }

    /// In constant time.
    fn is(&self, presented: &Presented) -> bool {
        presented.hashes.iter().fold(false, |is, hash| verify_slices_are_equal(&self.hash, hash).is_ok() | is)
    }
}

/// Compares with the codes of the phone, oldest first.
pub(crate) fn compare(codes: &[Code], presented: &Presented, now: DateTime<Utc>) -> CodeMatch {
    let live = || codes.iter().filter(|code| code.expires_at > now);
    let own = live().rfind(|code| code.asker == presented.asker);
    let (compared, tries): (Vec<&Code>, fn(&mut Tries) -> &mut i16) = match (presented.request_id, own) {
        (Some(id), _) => (live().filter(|code| code.request_id == id).collect(), |tries| &mut tries.by_id),
        (None, Some(newest)) => (vec![newest], |tries| &mut tries.by_asker),
        (None, None) => (live().collect(), |tries| &mut tries.by_others),
    };
    let mut wrong = Vec::new();
    for code in compared {
        let mut left = code.tries;
        let left_here = tries(&mut left);
        if *left_here <= 0 {
            continue;
        }
        if code.is(presented) {
            return CodeMatch::Right;
        }
        *left_here -= 1;
        wrong.push((code.request_id, left));
    }
    if wrong.is_empty() { CodeMatch::Dead } else { CodeMatch::Wrong(wrong) }
}

/// A new code: six digits, all equally likely.
pub(crate) fn code(world: &World) -> String {
    format!("{:06}", world.below(1_000_000))
}

/// What is hashed of a code: the phone too.
fn hashed(phone: &Phone, code: &str) -> String {
    format!("{}:{code}", phone.as_str())
}

/// What is stored of a code: a hash under the server's key.
pub(crate) fn hash(tokens: &Tokens, phone: &Phone, code: &str) -> [u8; 32] {
    tokens.keyed_hash("otp", &hashed(phone, code))
}

/// Every hash as which a code may be stored.
pub(crate) fn hashes(tokens: &Tokens, phone: &Phone, code: &str) -> Vec<[u8; 32]> {
    tokens.keyed_hashes("otp", &hashed(phone, code))
}

#[cfg(test)]
mod tests;
