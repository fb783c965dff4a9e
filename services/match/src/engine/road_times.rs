//! Road times as the engine knows them: those that it was given as an input, and those that it waits for. Pure. Without ROUTING_URL
//! all of it is empty.
//!
//! A request whose ways are not known yet is held back, so that a driver across a river is not offered because the crow flies
//! there; for 250 ms at most, and once in 5 s. Then what is not known is estimated.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use roads::{Leg, Road, Way, WayKey};
use streams::RequestId;

/// The longest that a request is held back for road times: those who ask for them answer within 200 ms.
const WAIT: Duration = Duration::milliseconds(250);
const HOLD_AGAIN_AFTER: Duration = Duration::seconds(5);
/// How long an answer is used: drivers move on. Whoever answers has it for the hour.
const KNOWN_FOR: Duration = Duration::minutes(1);
/// How long a way that nobody could answer is estimated.
const ESTIMATED_FOR: Duration = Duration::seconds(5);
/// The most ways: those of 256 requests and their drivers, some times a minute. The oldest make room for others.
const WAYS_MAX: usize = 50_000;
/// The most ways that one step asks for. What does not fit is estimated, and counted.
const WANTED_MAX: usize = 1_000;

/// What is known of a way, until when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Knowledge {
    /// Until this moment an answer may come.
    Pending(DateTime<Utc>),
    Known(Road, DateTime<Utc>),
    Estimated(DateTime<Utc>),
}

impl Knowledge {
    const fn until(&self) -> DateTime<Utc> {
        match self {
            Self::Pending(until) | Self::Known(_, until) | Self::Estimated(until) => *until,
        }
    }

    /// Since when it is so.
    fn since(&self) -> DateTime<Utc> {
        match self {
            Self::Pending(until) => *until - WAIT,
            Self::Known(_, until) => *until - KNOWN_FOR,
            Self::Estimated(until) => *until - ESTIMATED_FOR,
        }
    }
}

/// What the engine goes by for a way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WayTime {
    Road(Leg),
    /// No road leads there.
    Unreachable,
    /// Not known: to be estimated.
    Estimate,
}

/// All of [`RoadTimes`] between two steps, in the order of ways and requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoadTimesRows {
    pub ways: Vec<(WayKey, Knowledge)>,
    pub held: Vec<(RequestId, DateTime<Utc>)>,
    pub last_hold: Vec<(RequestId, DateTime<Utc>)>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoadTimes {
    ways: BTreeMap<WayKey, Knowledge>,
    /// Since when requests are held back.
    held: BTreeMap<RequestId, DateTime<Utc>>,
    /// When the last hold of a request began.
    last_hold: BTreeMap<RequestId, DateTime<Utc>>,
    wanted: Vec<Way>,
    /// Ways that a step did not ask for, because it asked for as many as it may.
    left_out: usize,
    /// Since the last [`Self::take_changed`].
    has_changed: bool,
}

impl RoadTimes {
    pub fn rows(&self) -> RoadTimesRows {
        let by_request = |times: &BTreeMap<RequestId, DateTime<Utc>>| times.iter().map(|(id, at)| (*id, *at)).collect();
        let ways = self.ways.iter().map(|(key, knowledge)| (*key, *knowledge)).collect();
        RoadTimesRows { ways, held: by_request(&self.held), last_hold: by_request(&self.last_hold) }
    }

    pub fn from_rows(rows: RoadTimesRows) -> Self {
        let RoadTimesRows { ways, held, last_hold } = rows;
        let [held, last_hold] = [held, last_hold].map(|times| times.into_iter().collect());
        Self { ways: ways.into_iter().collect(), held, last_hold, ..Self::default() }
    }

    pub fn get(&self, way: &Way, now: DateTime<Utc>) -> WayTime {
        match self.ways.get(&way.key()) {
            Some(Knowledge::Known(road, until)) if now < *until => match *road {
                Road::Leg(leg) => WayTime::Road(leg),
                Road::None => WayTime::Unreachable,
            },
            _ => WayTime::Estimate,
        }
    }

    /// Asks for a way that is not known. True while an answer may come.
    pub(super) fn want(&mut self, way: Way, now: DateTime<Utc>) -> bool {
        let key = way.key();
        match self.ways.get(&key) {
            Some(knowledge) if now < knowledge.until() => matches!(knowledge, Knowledge::Pending(_)),
            // Nobody answered in time, not even that there is no answer.
            Some(Knowledge::Pending(until)) if now < *until + ESTIMATED_FOR => {
                let until = *until + ESTIMATED_FOR;
                self.ways.insert(key, Knowledge::Estimated(until));
                self.has_changed = true;
                false
            }
            _ if self.wanted.len() >= WANTED_MAX => {
                self.left_out += 1;
                false
            }
            _ => {
                self.put(key, Knowledge::Pending(now + WAIT));
                self.wanted.push(way);
                true
            }
        }
    }

    /// Takes an answer; `None`: nobody can say.
    pub(super) fn receive(&mut self, way: &Way, road: Option<Road>, now: DateTime<Utc>) {
        let knowledge = match road {
            Some(road) => Knowledge::Known(road, now + KNOWN_FOR),
            None => Knowledge::Estimated(now + ESTIMATED_FOR),
        };
        self.put(way.key(), knowledge);
    }

    fn put(&mut self, key: WayKey, knowledge: Knowledge) {
        if self.ways.len() >= WAYS_MAX && !self.ways.contains_key(&key) {
            // Many at once, so that the next ones cost no search.
            let mut by_age: Vec<(DateTime<Utc>, WayKey)> =
                self.ways.iter().map(|(key, knowledge)| (knowledge.since(), *key)).collect();
            let (oldest, ..) = by_age.select_nth_unstable(WAYS_MAX / 4);
            oldest.iter().for_each(|(_, key)| _ = self.ways.remove(key));
        }
        self.ways.insert(key, knowledge);
        self.has_changed = true;
    }

    /// Whether a request whose ways are `pending` is held back.
    pub(super) fn hold(&mut self, request: RequestId, pending: bool, now: DateTime<Utc>) -> bool {
        if !pending {
            return false;
        }
        let begun = self.last_hold.get(&request).copied().filter(|begun| now < *begun + HOLD_AGAIN_AFTER);
        let begun = begun.unwrap_or(now);
        if now >= begun + WAIT {
            return false;
        }
        self.has_changed = true;
        self.last_hold.insert(request, begun);
        self.held.insert(request, begun);
        true
    }

    pub(crate) fn is_held(&self, request: RequestId) -> bool {
        self.held.contains_key(&request)
    }

    /// The requests that are held back; none is any more.
    pub(super) fn take_held(&mut self) -> impl Iterator<Item = RequestId> {
        self.has_changed |= !self.held.is_empty();
        std::mem::take(&mut self.held).into_keys()
    }

    /// Whether anything has changed since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    pub(super) fn take_left_out(&mut self) -> usize {
        std::mem::take(&mut self.left_out)
    }

    pub(super) fn take_wanted(&mut self) -> Vec<Way> {
        std::mem::take(&mut self.wanted)
    }

    /// When the first hold is over.
    pub(super) fn deadline(&self) -> Option<DateTime<Utc>> {
        self.held.values().map(|begun| *begun + WAIT).min()
    }

    pub(super) fn prune(&mut self, now: DateTime<Utc>) {
        self.ways.retain(|_, knowledge| now < knowledge.until() + ESTIMATED_FOR);
        self.last_hold.retain(|_, begun| now < *begun + HOLD_AGAIN_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use streams::Position;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_way_is_asked_for_once_and_a_request_waits_for_it_no_longer_than_it_may() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let ms = |ms| now + Duration::milliseconds(ms);
        let way = |lat| Way { from: Position { lat, lng: 0.0 }, to: Position { lat: 1.0, lng: 0.0 } };
        let request = RequestId(Uuid::from_u128(1));
        let mut times = RoadTimes::default();
        assert!(times.want(way(0.0), now) && times.want(way(0.0), ms(1)) && times.want(way(0.1), ms(1)));
        assert_eq!(times.take_wanted(), [way(0.0), way(0.1)]);
        assert!(times.hold(request, true, ms(1)) && times.is_held(request));
        assert_eq!(times.deadline(), Some(ms(251)));
        let leg = Leg { distance_m: 1.0, duration_s: 2.0 };
        times.receive(&way(0.0), Some(Road::Leg(leg)), ms(100));
        assert_eq!(times.get(&way(0.0), ms(100)), WayTime::Road(leg));
        assert_eq!((times.want(way(0.0), ms(100)), times.want(way(0.1), ms(100))), (false, true));
        // The other way's answer never comes.
        assert_eq!(times.take_held().collect::<Vec<_>>(), [request]);
        assert!(times.hold(request, true, ms(250)) && !times.hold(request, true, ms(251)));
        assert_eq!((times.want(way(0.1), ms(251)), times.get(&way(0.1), ms(251))), (false, WayTime::Estimate));
        // Later it is asked for again, and the request may be held back again.
        assert!(times.want(way(0.1), ms(5_300)) && times.hold(request, true, ms(5_300)));
        assert_eq!(times.take_wanted(), [way(0.1)]);
        times.receive(&way(0.1), Some(Road::None), ms(5_400));
        assert_eq!(times.get(&way(0.1), ms(5_400)), WayTime::Unreachable);
        assert_eq!(times.get(&way(0.0), now + KNOWN_FOR + Duration::seconds(1)), WayTime::Estimate);
        times.prune(now + Duration::hours(1));
        assert!(times.ways.is_empty() && times.last_hold.is_empty());
    }
    #[test]
    fn the_oldest_ways_make_room_and_a_step_that_wants_too_many_says_so() {
        let begin = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let way = |n: usize| Way {
            from: Position { lat: 0.0, lng: n as f64 / 1_000.0 },
            to: Position { lat: 1.0, lng: 0.0 },
        };
        let at = |n: usize| begin + Duration::milliseconds(n as i64);
        let leg = Leg { distance_m: 1.0, duration_s: 2.0 };
        let mut times = RoadTimes::default();
        let count = WAYS_MAX + 500;
        for n in 0..count {
            times.receive(&way(n), Some(Road::Leg(leg)), at(n));
        }
        assert!(times.ways.len() <= WAYS_MAX);
        let now = at(count);
        assert_eq!((times.get(&way(count - 1), now), times.get(&way(0), now)), (WayTime::Road(leg), WayTime::Estimate));
        assert_eq!(times.get(&way(count - WAYS_MAX / 2), now), WayTime::Road(leg), "only the oldest");
        // There is always room for what a step asks for.
        assert!((0..WANTED_MAX).all(|n| times.want(way(count + n), now)));
        assert_eq!(times.take_left_out(), 0);
        assert!(!times.want(way(count + WANTED_MAX), now));
        assert_eq!((times.take_wanted().len(), times.take_left_out(), times.take_left_out()), (WANTED_MAX, 1, 0));
    }
}
