//! The rides whose fingerprints differ, looked at event by event: which copies the stream has, which the tables have; and what
//! that means. The rides are read in groups, so that a trail that is lost altogether takes no more memory than a sound one.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use platform::outbox;
use serde::Deserialize;
use streams::bus::{MESSAGE_ID, StoredMessage};
use streams::{RideId, Service};

use super::prints::{Digest, Group, digest};
use super::{Audit, AuditError, Finding, Findings, PAGE, Reader, STREAM, rows};
use crate::event_log::KeptEvent;

/// Events of suspect rides that are held at once.
pub(super) const HELD_MAX: u64 = 200_000;
/// Differences that are looked at byte by byte; each is two reads.
const DETAILED_MAX: u64 = 100;

/// A copy in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Where.
    pub sequence: u64,
    /// Of which version.
    pub version: u32,
    /// What it is.
    pub digest: Digest,
}

/// An event in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Its version.
    pub version: u32,
    /// What it is.
    pub digest: Digest,
    /// When it occurred.
    pub occurred_at: DateTime<Utc>,
}

/// What there is of a ride.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspect {
    /// In the stream, in its order.
    pub stream: Vec<Copy>,
    /// In the tables, by version.
    pub kept: Vec<Kept>,
}

/// What one version comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The stream has it not.
    Lost,
    /// The stream has it more than once.
    Repeated(Vec<u64>),
    /// The tables have it not.
    Unknown(u64),
    /// The stream has another one.
    Another(u64),
}

impl Suspect {
    /// Each version that is not once and the same in both; pure.
    pub fn verdicts(&self) -> Vec<(u32, Verdict)> {
        let mut copies: BTreeMap<u32, Vec<Copy>> = BTreeMap::new();
        for copy in &self.stream {
            copies.entry(copy.version).or_default().push(*copy);
        }
        let mut verdicts = Vec::new();
        for kept in &self.kept {
            let found = copies.remove(&kept.version).unwrap_or_default();
            if found.is_empty() {
                verdicts.push((kept.version, Verdict::Lost));
            }
            let others = found.iter().filter(|c| c.digest != kept.digest);
            verdicts.extend(others.map(|c| (kept.version, Verdict::Another(c.sequence))));
            if found.len() > 1 {
                verdicts.push((kept.version, Verdict::Repeated(found.iter().map(|c| c.sequence).collect())));
            }
        }
        for (version, found) in copies {
            verdicts.extend(found.iter().map(|c| (version, Verdict::Unknown(c.sequence))));
        }
        verdicts
    }
}

/// What of a body says where it belongs.
#[derive(Deserialize)]
struct Place {
    ride_id: RideId,
    version: u32,
    occurred_at: DateTime<Utc>,
}

fn message_id(stored: &StoredMessage) -> &str {
    stored.headers.find(MESSAGE_ID).unwrap_or_default()
}

pub(super) fn digest_of(event: &KeptEvent) -> Digest {
    digest(&event.subject, &event.message_id, event.body.as_bytes())
}

/// The message by which a kept event is told, the same whenever it is.
pub(super) fn message(event: &KeptEvent) -> streams::Message {
    let (id, entity) = (&event.message_id, event.ride_id.to_string());
    let body = bytes::Bytes::from(event.body.clone());
    outbox::message(&event.subject, id, &entity, event.occurred_at, &event.traceparent, Service::Rides, body)
}

type Suspects = BTreeMap<RideId, Suspect>;

impl Audit {
    /// Reads all that there is of the rides in `group`, leaving out what occurred before `horizon`. What the outbox has not
    /// published yet counts as neither; returns how many those are.
    pub(super) async fn suspects(&self, group: &Group, horizon: DateTime<Utc>) -> Result<(Suspects, u64), AuditError> {
        let mut suspects = Suspects::new();
        // The tables first: whatever they have by now, and is published, is in the stream when that is read.
        let mut after = None;
        loop {
            let page = rows::events_since(&mut self.store.begin().await?, horizon, after, PAGE).await?;
            for event in page.iter().filter(|e| group.has(e.ride_id)) {
                let kept = Kept { version: event.version, digest: digest_of(event), occurred_at: event.occurred_at };
                suspects.entry(event.ride_id).or_default().kept.push(kept);
            }
            after = page.last().map(|e| (e.occurred_at, e.ride_id, e.version));
            if page.len() < PAGE {
                break;
            }
        }
        for suspect in suspects.values_mut() {
            suspect.kept.sort_by_key(|kept| kept.version);
        }
        let read_to = self.copies(&mut suspects, group, horizon, 1).await?;
        let waiting = self.waiting(&mut suspects).await?;
        // What was published between the two looks was marked after it: it is in the rest.
        self.copies(&mut suspects, group, horizon, read_to + 1).await?;
        self.told_since(&mut suspects).await?;
        Ok((suspects, waiting))
    }

    async fn copies(
        &self,
        suspects: &mut Suspects,
        group: &Group,
        horizon: DateTime<Utc>,
        from: u64,
    ) -> Result<u64, AuditError> {
        let to = self.bus.stream_info(STREAM).await?.last_sequence;
        let mut reader = Reader::open(&self.bus, from, to).await?;
        while let Some(batch) = reader.next(&self.progress).await? {
            for stored in &batch {
                // One that cannot be read is a finding by itself, and its event is lost.
                let Ok(place) = serde_json::from_slice::<Place>(&stored.payload) else { continue };
                if !group.has(place.ride_id) || place.occurred_at < horizon {
                    continue;
                }
                let digest = digest(&stored.subject, message_id(stored), &stored.payload);
                let copy = Copy { sequence: stored.sequence, version: place.version, digest };
                suspects.entry(place.ride_id).or_default().stream.push(copy);
            }
        }
        Ok(to)
    }

    /// Takes out what has not been published yet.
    async fn waiting(&self, suspects: &mut Suspects) -> Result<u64, AuditError> {
        let lost: Vec<(RideId, u32)> = suspects
            .iter()
            .flat_map(|(ride, s)| s.verdicts().into_iter().map(|(version, verdict)| (*ride, version, verdict)))
            .filter(|(_, _, verdict)| *verdict == Verdict::Lost)
            .map(|(ride, version, _)| (ride, version))
            .collect();
        let mut waiting = 0;
        for keys in lost.chunks(PAGE) {
            let mut tx = self.store.begin().await?;
            let events = rows::events_at(&mut tx, keys).await?;
            let ids: HashMap<&str, (RideId, u32)> =
                events.iter().map(|(key, e)| (e.message_id.as_str(), *key)).collect();
            let unpublished = tx.unpublished_of(&ids.keys().copied().collect::<Vec<_>>()).await?;
            for (ride, version) in unpublished.iter().filter_map(|id| ids.get(id.as_str())) {
                waiting += 1;
                if let Some(suspect) = suspects.get_mut(ride) {
                    suspect.kept.retain(|kept| kept.version != *version);
                    // Had it been published meanwhile, it would be no stranger.
                    suspect.stream.retain(|copy| copy.version != *version);
                }
            }
        }
        Ok(waiting)
    }

    /// Adds what the tables have by now of versions that they had not when they were read.
    async fn told_since(&self, suspects: &mut Suspects) -> Result<(), AuditError> {
        let unknown: Vec<(RideId, u32)> = suspects
            .iter()
            .flat_map(|(ride, s)| s.verdicts().into_iter().map(|(version, verdict)| (*ride, version, verdict)))
            .filter(|(_, _, verdict)| matches!(verdict, Verdict::Unknown(_)))
            .map(|(ride, version, _)| (ride, version))
            .collect();
        for keys in unknown.chunks(PAGE) {
            for (key, event) in rows::events_at(&mut self.store.begin().await?, keys).await? {
                if let Some(suspect) = suspects.get_mut(&key.0) {
                    let kept =
                        Kept { version: event.version, digest: digest_of(&event), occurred_at: event.occurred_at };
                    suspect.kept.push(kept);
                    suspect.kept.sort_by_key(|kept| kept.version);
                }
            }
        }
        Ok(())
    }

    /// Says in words what is wrong with suspects.
    pub(super) async fn accuse(&self, suspects: &Suspects, findings: &mut Findings) -> Result<(), AuditError> {
        for (ride, suspect) in suspects {
            for (version, verdict) in suspect.verdicts() {
                let (sequence, what) = match verdict {
                    Verdict::Lost => (
                        None,
                        "it is in the database and not in the stream: `audit repair` publishes it again".to_owned(),
                    ),
                    Verdict::Repeated(at) => {
                        let at: Vec<String> = at.iter().map(u64::to_string).collect();
                        (
                            None,
                            format!("it stands {} times in the stream, at the sequences {}", at.len(), at.join(", ")),
                        )
                    }
                    Verdict::Unknown(at) => (Some(at), "it is in the stream and not in the database".to_owned()),
                    Verdict::Another(at) if findings.count() < DETAILED_MAX => {
                        (Some(at), self.difference(*ride, version, at).await?)
                    }
                    Verdict::Another(at) => (Some(at), "the stream's is not the database's".to_owned()),
                };
                findings.push(Finding::of_event(*ride, version, sequence, what));
            }
        }
        Ok(())
    }

    pub(super) async fn difference(&self, ride: RideId, version: u32, at: u64) -> Result<String, AuditError> {
        let stored = self.bus.get_message(STREAM, at).await?;
        let kept = rows::events_at(&mut self.store.begin().await?, &[(ride, version)]).await?;
        Ok(match kept.get(&(ride, version)) {
            Some(kept) => differs(&stored, kept),
            None => "the database has it no more".to_owned(),
        })
    }
}

/// Where a message is not what is kept of it.
pub fn differs(stored: &StoredMessage, kept: &KeptEvent) -> String {
    if stored.subject != kept.subject {
        return format!("its subject is {}, in the database {}", stored.subject, kept.subject);
    }
    if message_id(stored) != kept.message_id {
        return format!("its message id is `{}`, in the database `{}`", message_id(stored), kept.message_id);
    }
    let (one, two) = (&stored.payload[..], kept.body.as_bytes());
    let same = one.iter().zip(two).take_while(|(a, b)| a == b).count();
    // A few bytes around the place, for people to find it.
    let around = |body: &[u8]| {
        let part = &body[same.saturating_sub(16).min(body.len())..(same + 16).min(body.len())];
        String::from_utf8_lossy(part).escape_debug().to_string()
    };
    format!("its body is not the database's from byte {same} on: `{}`, in the database `{}`", around(one), around(two))
}
