//! Which processes of location there are, and which of them owns a zone. Pure.
//!
//! Each process decides by itself, by rendezvous hashing over those that it has received something of: the owner of a zone is the one with
//! the highest hash of zone and process. So processes that know the same others agree, one that comes or goes changes the owner of its
//! own zones alone, and nobody is asked. Two that disagree for a while only show older places.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};

use super::zone::{Scope, Zone, mixed};

/// Of the zones, their hashes and the messages about them. A process of another version owns no zone here; while there is one, it is sent
/// every position, as all were before there were zones.
pub(crate) const VERSION: u32 = 1;
/// Others that are silent for so long are gone.
const SILENCE_MAX: Duration = Duration::seconds(20);
/// For so long after an owner changed, the one before is asked as well: the new one does not know all drivers yet.
const OVERLAP: Duration = Duration::seconds(10);
/// The most processes beside this one; more are as if they were not there.
const OTHERS_MAX: usize = 500;

/// The process that owns a zone; `None` is this one.
pub(crate) type Owner = Option<Arc<str>>;

#[derive(Debug, Clone, Copy)]
struct Member {
    seen_at: DateTime<Utc>,
    version: u32,
}

/// The other processes, as this one knows them, and the owners that follow.
#[derive(Debug, Default)]
pub(crate) struct Members {
    own: Arc<str>,
    others: BTreeMap<Arc<str>, Member>,
    /// By zone; empty as long as this process was always alone.
    owners: Vec<Owner>,
    /// Those before the last change, and when it was.
    before: Option<(DateTime<Utc>, Vec<Owner>)>,
    /// Zones whose owner changed, with the owner before, until [`take_moves`](Self::take_moves).
    moved: BTreeMap<Zone, Owner>,
    has_left: bool,
}

/// What follows from a change of owners.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    /// This process owns zones that it did not own.
    pub(crate) gained: bool,
    /// By new owner, zones of which it must be sent what this process knows: it owned them, or their owner is gone.
    pub(crate) hand_over: BTreeMap<Arc<str>, BTreeSet<Zone>>,
}

/// Who is asked about drivers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What this process answers itself.
    pub(crate) own: Scope,
    pub(crate) others: BTreeMap<Arc<str>, Asked>,
}

/// The zones of which one process is asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Of which it is the owner.
    pub(crate) owned: BTreeSet<Zone>,
    /// Of which it was until lately.
    pub(crate) owned_before: BTreeSet<Zone>,
}

impl Members {
    pub(crate) fn new(own: Arc<str>) -> Self {
        Self { own, ..Self::default() }
    }

    /// Something of another process came. True if it was not known.
    pub(crate) fn seen(&mut self, pod: &str, version: u32, now: DateTime<Utc>) -> bool {
        let is_full = self.others.len() >= OTHERS_MAX;
        if let Some(known) = self.others.get_mut(pod) {
            known.seen_at = now;
            if known.version == version {
                return false;
            }
        } else if self.has_left || pod == &*self.own || is_full {
            return false;
        }
        self.others.insert(pod.into(), Member { seen_at: now, version });
        self.assign(now);
        true
    }

    /// Another process said that it ends, or does not answer and nobody subscribes to its subject.
    pub(crate) fn gone(&mut self, pod: &str, now: DateTime<Utc>) -> bool {
        let was_known = self.others.remove(pod).is_some();
        if was_known {
            self.assign(now);
        }
        was_known
    }

    /// Forgets who is silent.
    pub(crate) fn expire(&mut self, now: DateTime<Utc>) {
        let count = self.others.len();
        self.others.retain(|_, member| now - member.seen_at < SILENCE_MAX);
        if self.others.len() != count {
            self.assign(now);
        }
    }

    /// This process ends: it is alone from now on. What it knows is to be handed over as the result says.
    pub(crate) fn leave(&mut self) -> BTreeMap<Arc<str>, BTreeSet<Zone>> {
        self.has_left = true;
        let others: Vec<Arc<str>> = self.peers().cloned().collect();
        let mut hand_over: BTreeMap<Arc<str>, BTreeSet<Zone>> = BTreeMap::new();
        for zone in Zone::all().filter(|zone| self.owner(*zone).is_none()) {
            if let Some(next) = others.iter().max_by_key(|pod| score(zone, pod)) {
                hand_over.entry(next.clone()).or_default().insert(zone);
            }
        }
        (self.others, self.owners, self.before) = Default::default();
        self.moved.clear();
        hand_over
    }

    pub(crate) fn has_left(&self) -> bool {
        self.has_left
    }

    pub(crate) fn has_others(&self) -> bool {
        !self.others.is_empty()
    }

    /// Whether a process of another version is there.
    pub(crate) fn has_other_version(&self) -> bool {
        self.others.values().any(|member| member.version != VERSION)
    }

    pub(crate) fn owner(&self, zone: Zone) -> Owner {
        self.owners.get(zone.index()).cloned().flatten()
    }

    /// The others with which this process shares out the zones.
    fn peers(&self) -> impl Iterator<Item = &Arc<str>> {
        self.others.iter().filter(|(_, member)| member.version == VERSION).map(|(pod, _)| pod)
    }

    fn assign(&mut self, now: DateTime<Utc>) {
        let owner = |zone| -> Owner {
            let best = self.peers().max_by_key(|pod| score(zone, pod))?;
            (score(zone, best) > score(zone, &self.own)).then(|| best.clone())
        };
        let owners: Vec<Owner> = Zone::all().map(owner).collect();
        let before = std::mem::take(&mut self.owners);
        let before = if before.is_empty() { vec![None; owners.len()] } else { before };
        if owners != before {
            for (zone, (old, new)) in Zone::all().zip(before.iter().zip(&owners)) {
                if old != new {
                    self.moved.entry(zone).or_insert_with(|| old.clone());
                }
            }
            self.before = Some((now, before));
        }
        self.owners = owners;
    }

    /// What is to be done since owners changed; each change once.
    pub(crate) fn take_moves(&mut self) -> Moves {
        let mut moves = Moves::default();
        for (zone, old) in std::mem::take(&mut self.moved) {
            let new = self.owner(zone);
            let is_old_gone = old.as_ref().is_some_and(|pod| !self.others.contains_key(pod));
            match new {
                new if new == old => {}
                None => moves.gained = true,
                Some(new) if old.is_none() || is_old_gone => {
                    moves.hand_over.entry(new).or_default().insert(zone);
                }
                Some(_) => {}
            }
        }
        moves
    }

    /// Who is asked about the drivers of `scope`.
    pub(crate) fn plan(&self, scope: &Scope, now: DateTime<Utc>) -> Plan {
        if !self.has_others() {
            return Plan { own: scope.clone(), others: BTreeMap::new() };
        }
        let before = self.before.as_ref().filter(|(at, _)| now - *at < OVERLAP).map(|(_, owners)| owners);
        let mut own = BTreeSet::new();
        let mut others: BTreeMap<Arc<str>, Asked> = BTreeMap::new();
        for zone in Zone::all().filter(|zone| scope.contains(*zone)) {
            let owner = self.owner(zone);
            match &owner {
                Some(pod) => _ = others.entry(pod.clone()).or_default().owned.insert(zone),
                None => _ = own.insert(zone),
            }
            match before.map(|owners| &owners[zone.index()]).filter(|before| **before != owner) {
                Some(None) => _ = own.insert(zone),
                Some(Some(pod)) if self.others.contains_key(pod) => {
                    others.entry(pod.clone()).or_default().owned_before.insert(zone);
                }
                _ => {}
            }
        }
        Plan { own: Scope::Zones(own), others }
    }
}

/// The hash of rendezvous hashing: FNV-1a, mixed. The name decides between equal ones.
fn score(zone: Zone, pod: &Arc<str>) -> (u64, &str) {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in (zone.index() as u64).to_le_bytes().iter().chain(pod.as_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    (mixed(hash), pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::seconds(seconds)
    }

    /// A process that has received something of these others at second 0.
    fn knowing(own: &str, others: &[&str]) -> Members {
        let mut members = Members::new(own.into());
        for pod in others {
            assert!(members.seen(pod, VERSION, at(0)));
        }
        members
    }

    /// The owner of each zone, by name.
    fn owners(members: &Members) -> Vec<Arc<str>> {
        Zone::all().map(|zone| members.owner(zone).unwrap_or_else(|| members.own.clone())).collect()
    }

    fn zones(of: &BTreeMap<Arc<str>, BTreeSet<Zone>>) -> usize {
        of.values().map(BTreeSet::len).sum()
    }

    #[test]
    fn processes_that_know_the_same_others_agree_on_one_owner_of_each_zone() {
        for count in [1, 2, 3, 8, 16] {
            let pods: Vec<String> = (0..count).map(|n| format!("location-{n}")).collect();
            let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
            let others = |own| pods.iter().copied().filter(move |pod| *pod != own).collect::<Vec<_>>();
            let first = owners(&knowing(pods[0], &others(pods[0])));
            for own in &pods {
                assert_eq!(owners(&knowing(own, &others(own))), first, "{own} of {count}");
                let owned = first.iter().filter(|owner| ***owner == **own).count();
                let even = first.len() / count;
                assert!((even / 2..=even * 2).contains(&owned), "{own} of {count} owns {owned}");
            }
        }
    }

    #[test]
    fn who_comes_takes_zones_from_the_others_and_who_goes_gives_back_its_own_alone() {
        let mut members = knowing("a", &["b", "c"]);
        let before = owners(&members);
        assert!(members.seen("d", VERSION, at(30)) && !members.seen("d", VERSION, at(31)));
        for (old, new) in before.iter().zip(owners(&members)) {
            assert!(*new == **old || &*new == "d");
        }
        members.gone("d", at(32));
        assert_eq!(owners(&members), before);
        // Those who are silent for 20 s go too.
        members.seen("c", VERSION, at(33));
        members.expire(at(34));
        assert!(owners(&members).iter().all(|owner| ["a", "c"].contains(&&**owner)));
        members.expire(at(53));
        assert!(!members.has_others() && owners(&members).iter().all(|owner| &**owner == "a"));
    }

    #[test]
    fn what_a_zones_owner_knows_goes_to_the_next_one_from_it_or_from_all_if_it_is_gone() {
        let mut members = knowing("a", &["b"]);
        let Moves { gained, hand_over } = members.take_moves();
        assert!(!gained && hand_over.keys().all(|pod| &**pod == "b"), "it was alone");
        assert_eq!(members.take_moves(), Moves::default(), "once");
        // Of those that b loses, b says what it knows.
        members.seen("c", VERSION, at(1));
        let own = owners(&knowing("a", &["b"]));
        let from_own = own.iter().zip(owners(&members)).filter(|(old, new)| &***old == "a" && &**new == "c").count();
        let Moves { gained, hand_over } = members.take_moves();
        assert_eq!((gained, zones(&hand_over)), (false, from_own));
        // b is gone: c gets what a has read of its zones, and a has new ones.
        let of_b = owners(&members).iter().filter(|owner| &***owner == "b").count();
        members.gone("b", at(2));
        let Moves { gained, hand_over } = members.take_moves();
        let to_c = zones(&hand_over);
        assert!(gained && 0 < to_c && to_c < of_b, "{to_c} of {of_b}");
        // There and back: nothing is to be done.
        members.seen("b", VERSION, at(3));
        members.gone("b", at(4));
        assert_eq!(members.take_moves(), Moves::default());
        // a ends.
        let own = owners(&members).iter().filter(|owner| &***owner == "a").count();
        assert_eq!(zones(&members.leave()), own);
        assert!(members.has_left() && !members.seen("b", VERSION, at(5)) && !members.has_others());
    }

    #[test]
    fn owners_are_asked_and_for_10_s_those_before_them() {
        let alone = Members::new("a".into());
        assert_eq!(alone.plan(&Scope::All, at(0)), Plan { own: Scope::All, others: BTreeMap::new() });
        let mut members = knowing("a", &["b"]);
        let Plan { own, others } = members.plan(&Scope::All, at(9));
        assert_eq!(own, Scope::Zones(Zone::all().collect()), "it was the owner of all");
        let of_b = others["b"].owned.clone();
        assert!(!of_b.is_empty() && others["b"].owned_before.is_empty());
        let Plan { own, .. } = members.plan(&Scope::All, at(10));
        assert_eq!(own, Scope::Zones(Zone::all().filter(|zone| !of_b.contains(zone)).collect()));
        members.seen("c", VERSION, at(20));
        let Plan { others, .. } = members.plan(&Scope::All, at(20));
        assert!(others["c"].owned.intersection(&of_b).eq(&others["b"].owned_before));
        // A circle in one zone is a question to one process.
        let zone = *others["c"].owned.first().unwrap();
        let scope = Scope::Zones(BTreeSet::from([zone]));
        let Plan { own, others } = members.plan(&scope, at(30));
        assert_eq!(
            (own, others.keys().map(|pod| &**pod).collect::<Vec<_>>()),
            (Scope::Zones(BTreeSet::new()), vec!["c"])
        );
        // Who is gone is not asked.
        members.gone("c", at(30));
        assert!(!members.plan(&scope, at(30)).others.contains_key("c"));
    }

    #[test]
    fn a_process_of_another_version_owns_nothing_and_is_noticed() {
        let mut members = knowing("a", &["b"]);
        let before = owners(&members);
        members.seen("old", 0, at(1));
        assert!(members.has_other_version() && owners(&members) == before);
        // It is started again in this version.
        assert!(members.seen("old", VERSION, at(2)));
        assert!(!members.has_other_version() && owners(&members) != before);
        members.seen("old", 0, at(3));
        assert!(members.has_other_version() && owners(&members) == before);
        for n in 0..2 * OTHERS_MAX {
            members.seen(&format!("many-{n}"), VERSION, at(4));
        }
        assert_eq!(members.others.len(), OTHERS_MAX);
    }
}
