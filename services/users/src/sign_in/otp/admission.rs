//! Who may request a code, and who may present one: the shared limits of both, in one place. Pure.
//!
//! Some limits are of the asker, and some collective: of a number from all addresses, of a range of numbers, of everybody. When a
//! collective one is used up, somebody asks for codes or guesses them in bulk. Then the first few of an address pass all the
//! same, so that whoever does it locks nobody out.
//!
//! The figures, for 100 addresses that request 100,000 codes and present 1,000,000 in 200 s: sent are at most 1,000 + 2 × 200 by
//! `codes_all`, and 2 × 100 by `codes_first`: 1,600. Compared are at most 300 + 0.2 × 200 by `wrong_codes_all`, and 3 × 100 by
//! `wrong_codes_first`: 640, each right with a probability of 1 in 1,000,000. If the same goes on for a day, it is 24,780
//! comparisons, which win a sign-in with 2.5 %.

use platform::limits::{Limit, Refused};

use crate::rate_limit::Buckets;

/// Limits of one request for a code. Only a number without an account has buckets of `codes_prefix` and `codes_all`: numbers with
/// one are not for sale, and their owners must be able to sign in.
const OWN_CODES: [Limit; 2] = [Limit::CodesAddress, Limit::CodesAsker];
const COLLECTIVE_CODES: [Limit; 3] = [Limit::CodesNumber, Limit::CodesPrefix, Limit::CodesAll];

/// Admits a request for a code.
///
/// # Errors
/// The limit that is used up. Nothing is taken then.
pub(super) fn admit_request(buckets: &mut Buckets<'_>) -> Result<Vec<Limit>, Refused> {
    admit(buckets, &OWN_CODES, Limit::CodesFirst, &COLLECTIVE_CODES)
}

/// Admits the comparison of a code, as if it were wrong: so that guesses at the same time are all counted. What was taken is put
/// back if the code is right.
///
/// # Errors
/// The limit that is used up. Nothing is taken then, and the code is not compared: it may be right.
pub(super) fn admit_comparison(buckets: &mut Buckets<'_>) -> Result<Vec<Limit>, Refused> {
    admit(buckets, &[Limit::WrongCodesAddress], Limit::WrongCodesFirst, &[Limit::WrongCodesAll])
}

/// The limits from which one was taken.
fn admit(buckets: &mut Buckets<'_>, own: &[Limit], first: Limit, collective: &[Limit]) -> Result<Vec<Limit>, Refused> {
    let mut after = buckets.clone();
    let mut taken = own.to_vec();
    own.iter().try_for_each(|limit| after.take(*limit))?;
    let is_first = after.take(first).is_ok();
    if is_first {
        taken.push(first);
    }
    for limit in collective.iter().filter(|limit| buckets.has(**limit)) {
        if is_first {
            after.take_up_to(*limit);
        } else {
            after.take(*limit)?;
        }
        taken.push(*limit);
    }
    *buckets = after;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::{DateTime, Utc};
    use platform::limits::Limits;

    use super::*;
    use crate::rate_limit::RowKey;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_800_000_000_000 + ms).unwrap()
    }

    /// All buckets of a simulated platform.
    struct Shared {
        limits: Limits,
        tats: BTreeMap<RowKey, Buckets<'static>>,
    }

    impl Shared {
        /// One admission with one bucket for each limit, which are remembered by limit and owner.
        fn admit(
            &mut self,
            owners: &[(Limit, u64)],
            now: DateTime<Utc>,
            admit: fn(&mut Buckets<'_>) -> Result<Vec<Limit>, Refused>,
        ) -> Result<Vec<Limit>, Refused> {
            let limits: &'static Limits = Box::leak(Box::new(self.limits.clone()));
            let key = |limit: Limit, owner: u64| {
                let mut key = [0; 16];
                key[0] = limit as u8;
                key[8..].copy_from_slice(&owner.to_be_bytes());
                key
            };
            let keys: Vec<_> = owners.iter().map(|(limit, owner)| (*limit, key(*limit, *owner))).collect();
            let mut buckets = Buckets::full(limits, keys.iter().copied(), now);
            for (limit, key) in &keys {
                if let Some(known) = self.tats.get(key) {
                    buckets.copy(*limit, known);
                }
            }
            let admitted = admit(&mut buckets);
            for (_, key) in keys {
                self.tats.insert(key, buckets.clone());
            }
            admitted
        }
    }

    fn shared() -> Shared {
        Shared { limits: Limits::default(), tats: BTreeMap::new() }
    }

    fn code_request(address: u64, number: u64) -> [(Limit, u64); 6] {
        let asker = address * 100_000_000 + number;
        [
            (Limit::CodesAddress, address),
            (Limit::CodesAsker, asker),
            (Limit::CodesNumber, number),
            (Limit::CodesFirst, address),
            (Limit::CodesPrefix, number / 10_000),
            (Limit::CodesAll, 0),
        ]
    }

    /// The case, scaled to a tenth: 10,000 requests and 100,000 guesses from 100 addresses in 20 s.
    #[test]
    fn pumping_and_spraying_from_100_addresses_get_little_and_lock_nobody_out() {
        let mut platform = shared();
        let (mut sent, mut compared) = (0, 0);
        for n in 0..10_000 {
            let (address, now) = (n % 100, at(i64::try_from(n).unwrap() * 2));
            sent += u64::from(platform.admit(&code_request(address, n * 7_919), now, admit_request).is_ok());
            for guess in 0..10 {
                let address = (n + guess) % 100;
                let owners =
                    [(Limit::WrongCodesAddress, address), (Limit::WrongCodesFirst, address), (Limit::WrongCodesAll, 0)];
                compared += u64::from(platform.admit(&owners, now, admit_comparison).is_ok());
            }
        }
        assert!((1_000..=1_000 + 2 * 20 + 2 * 100).contains(&sent), "{sent} of 10,000 codes sent");
        assert!((300..=300 + 4 + 3 * 100 + 1).contains(&compared), "{compared} of 100,000 guesses compared");
        // Meanwhile an honest person elsewhere, new or known, is sent a code and may mistype it twice.
        let now = at(20_000);
        for number in [1, 7_919] {
            platform.admit(&code_request(1_000 + number, number), now, admit_request).unwrap();
        }
        let owners = [(Limit::WrongCodesAddress, 1_000), (Limit::WrongCodesFirst, 1_000), (Limit::WrongCodesAll, 0)];
        for _ in 0..3 {
            platform.admit(&owners, now, admit_comparison).unwrap();
        }
        assert_eq!(platform.admit(&owners, now, admit_comparison).unwrap_err().limit, Limit::WrongCodesAll);
    }

    #[test]
    fn each_limit_is_named_when_it_is_used_up() {
        let mut platform = shared();
        let mut refused_by = |requests: Vec<(u64, u64)>| {
            let mut asked = 0;
            requests
                .into_iter()
                .find_map(|(address, number)| {
                    asked += 1;
                    platform.admit(&code_request(address, number), at(0), admit_request).err()
                })
                .map(|refused| (refused.limit, asked - 1))
        };
        assert_eq!(refused_by((0..10).map(|_| (1, 10_000)).collect()), Some((Limit::CodesAsker, 5)));
        assert_eq!(refused_by((0..100).map(|n| (2, 20_000 + n)).collect()), Some((Limit::CodesPrefix, 30)));
        assert_eq!(
            refused_by((0..900).map(|n| (3, n * 10_000 + 900_000_000)).collect()),
            Some((Limit::CodesAddress, 300))
        );
        // From more and more addresses: each has its first two, also when the number's are used up.
        assert_eq!(refused_by((0..90).map(|n| (100 + n / 3, 30_000)).collect()), Some((Limit::CodesNumber, 20)));
    }
}
