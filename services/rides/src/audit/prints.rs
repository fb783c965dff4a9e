//! Fingerprints: whether two sets of events are the same, in a size that does not grow with them; pure.
//!
//! Rides fall into buckets by their ids. Each bucket counts its events and adds up their digests, so that the order in which
//! they come does not matter, and one too many, one too few or one changed shows in the bucket of its ride.

use aws_lc_rs::digest;
use streams::RideId;

/// How many: 1.5 MiB a set.
const BUCKETS: usize = 1 << 16;

/// The part of SHA-256 over all that makes an event what it is: subject, message id and body.
pub type Digest = u128;

/// The digest of an event.
pub fn digest(subject: &str, message_id: &str, body: &[u8]) -> Digest {
    let mut sha = digest::Context::new(&digest::SHA256);
    for part in [subject.as_bytes(), message_id.as_bytes(), body] {
        sha.update(&(part.len() as u64).to_be_bytes());
        sha.update(part);
    }
    let mut first = [0; 16];
    first.copy_from_slice(&sha.finish().as_ref()[..16]);
    u128::from_be_bytes(first)
}

/// The bucket of a ride.
pub fn bucket(ride: RideId) -> usize {
    // The last bytes of a UUIDv7 are random.
    (ride.0.as_u128() & (BUCKETS as u128 - 1)) as usize
}

/// The fingerprint of a set of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprints(Vec<(u64, Digest)>);

impl Default for Fingerprints {
    fn default() -> Self {
        Self(vec![(0, 0); BUCKETS])
    }
}

impl Fingerprints {
    /// Adds an event of `ride`.
    pub fn add(&mut self, ride: RideId, event: Digest) {
        let (count, sum) = &mut self.0[bucket(ride)];
        *count += 1;
        *sum = sum.wrapping_add(event);
    }

    /// Groups of the buckets in which the two differ, and of those in `also`; each group with at most `events_max` events in
    /// either set, unless one bucket alone has more.
    pub fn differing(&self, other: &Self, also: &[RideId], events_max: u64) -> Vec<Group> {
        let also: Vec<usize> = also.iter().map(|ride| bucket(*ride)).collect();
        let mut groups: Vec<Group> = Vec::new();
        let mut size = 0;
        for (n, (one, two)) in self.0.iter().zip(&other.0).enumerate() {
            if one == two && !also.contains(&n) {
                continue;
            }
            let events = one.0.max(two.0);
            if groups.is_empty() || size + events > events_max {
                groups.push(Group(vec![false; BUCKETS]));
                size = 0;
            }
            size += events;
            if let Some(group) = groups.last_mut() {
                group.0[n] = true;
            }
        }
        groups
    }
}

/// Some of the buckets.
#[derive(Debug, Clone)]
pub struct Group(Vec<bool>);

impl Group {
    /// Whether `ride` is in one of them.
    pub fn has(&self, ride: RideId) -> bool {
        self.0[bucket(ride)]
    }
}
