//! Links by which a party of a live ride shows it to others, without an app: who has the link sees the vehicle, its driver's first name, where
//! it is and when it arrives, and nothing of the passenger. A link ends with the ride, and before that when it is revoked. Pure; `rows` has
//! the table, `routes` the parties' routes, `viewed` what a link shows, `page` the page for a browser.

pub(crate) mod page;
pub(crate) mod routes;
pub(crate) mod rows;
pub(crate) mod viewed;

use chrono::{DateTime, Duration, Utc};
use platform::{Problem, Tokens};
use streams::{RideId, UserId};
use uuid::Uuid;

use crate::ride::Ride;

/// Open links of one party of a ride.
pub(crate) const SHARES_MAX: usize = 5;
/// A link ends after this time even if the ride does not.
const LIFE: Duration = Duration::hours(24);
/// For so long a link that has ended is answered 410; then nothing is stored of it.
pub(crate) const ENDED_RETENTION: Duration = Duration::hours(24);
/// Random bytes of a token: 160 bits.
pub(crate) const TOKEN_BYTES: usize = 20;

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) share_id: Uuid,
    pub(crate) ride_id: RideId,
    /// The party who made it.
    pub(crate) user: UserId,
    pub(crate) token_hash: Vec<u8>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
}

impl Share {
    pub(crate) fn new(ride: &Ride, user: UserId, share_id: Uuid, token_hash: [u8; 32], now: DateTime<Utc>) -> Self {
        let (token_hash, expires_at) = (token_hash.to_vec(), now + LIFE);
        Self { share_id, ride_id: ride.ride_id, user, token_hash, created_at: now, expires_at, revoked_at: None }
    }

    pub(crate) fn is_open(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none() && now < self.expires_at
    }
}

/// Whether another link of this ride may be made by a party who has `shares`.
///
/// # Errors
/// `ride_over`, `too_many_shares`.
pub(crate) fn admit(ride: &Ride, shares: &[Share], now: DateTime<Utc>) -> Result<(), Problem> {
    if ride.status.is_final() {
        return Err(Problem::conflict("ride_over", "the ride is over: there is nothing to show"));
    }
    if shares.iter().filter(|share| share.is_open(now)).count() >= SHARES_MAX {
        let message = format!("you have {SHARES_MAX} links of this ride: revoke one first");
        return Err(Problem::conflict("too_many_shares", message));
    }
    Ok(())
}

/// What is stored of a token.
pub(crate) fn hash(tokens: &Tokens, token: &str) -> [u8; 32] {
    tokens.keyed_hash("share", token)
}

/// Every hash as which a token may be stored.
pub(crate) fn hashes(tokens: &Tokens, token: &str) -> Vec<Vec<u8>> {
    tokens.keyed_hashes("share", token).iter().map(|hash| hash.to_vec()).collect()
}

/// The first word of a name, as strangers are shown it.
pub(crate) fn first_name(name: &str) -> &str {
    name.split_whitespace().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use streams::RideStatus;

    use super::*;
    use crate::ride::tests::{accepted, at};

    #[test]
    fn a_party_of_a_live_ride_has_five_open_links() {
        let ride = Ride::create(&accepted(), RideId(Uuid::from_u128(9)), None, at(0)).ride;
        let share = |n| Share::new(&ride, ride.passenger_id, Uuid::from_u128(n), [7; 32], at(0));
        let mut shares: Vec<Share> = (0..4).map(share).collect();
        let code = |ride: &Ride, shares: &[Share], now| admit(ride, shares, at(now)).map_err(|problem| problem.code);
        assert_eq!(code(&ride, &shares, 1), Ok(()));
        shares.push(share(4));
        assert_eq!(code(&ride, &shares, 1), Err("too_many_shares".into()));
        shares[0].revoked_at = Some(at(1));
        assert_eq!(code(&ride, &shares, 1), Ok(()));
        shares.push(share(5));
        assert_eq!(code(&ride, &shares, LIFE.num_seconds() - 1), Err("too_many_shares".into()));
        assert_eq!(code(&ride, &shares, LIFE.num_seconds()), Ok(()), "they have ended");
        let over = Ride { status: RideStatus::Completed, ..ride.clone() };
        assert_eq!(code(&over, &[], 1), Err("ride_over".into()));
    }

    #[test]
    fn strangers_see_the_first_name() {
        for (name, first) in [("Ann Lee", "Ann"), ("Ann", "Ann"), ("", ""), ("李 雷", "李")] {
            assert_eq!(first_name(name), first);
        }
    }
}
