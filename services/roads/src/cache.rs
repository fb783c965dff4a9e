//! Road times by the cells of both ends and the hour. Pure: the time comes in as an argument.

use chrono::{DateTime, Utc};
use geospatial::Hashed;

use crate::way::{Road, Way, WayKey};

/// Ways in one generation; there are two.
const GENERATION_MAX: usize = 50_000;
const HOUR_S: i64 = 3_600;

/// What the server said within this hour. Bounded by two generations: when the newer one is full, the older one is dropped.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    hour: i64,
    newer: Hashed<WayKey, Road>,
    older: Hashed<WayKey, Road>,
}

impl Cache {
    /// What was said of this way in the hour of `now`.
    pub(crate) fn get(&self, way: &Way, now: DateTime<Utc>) -> Option<Road> {
        if hour(now) != self.hour {
            return None;
        }
        let key = way.key();
        self.newer.get(&key).or_else(|| self.older.get(&key)).copied()
    }

    pub(crate) fn put(&mut self, way: &Way, road: Road, now: DateTime<Utc>) {
        if hour(now) != self.hour {
            *self = Self { hour: hour(now), ..Self::default() };
        }
        if self.newer.len() >= GENERATION_MAX {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(way.key(), road);
    }
}

fn hour(at: DateTime<Utc>) -> i64 {
    at.timestamp().div_euclid(HOUR_S)
}

/// The ways in batches of at most `max` with the same destination, in their order, each pair of cells once.
pub(crate) fn by_destination(ways: &[Way], max: usize) -> Vec<Vec<Way>> {
    let mut batches: Vec<Vec<Way>> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for way in ways {
        let key = way.key();
        if !seen.insert(key) {
            continue;
        }
        match batches.iter_mut().find(|batch| batch[0].key().has_destination_of(&key) && batch.len() < max) {
            Some(batch) => batch.push(*way),
            None => batches.push(vec![*way]),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use streams::Position;

    use super::*;
    use crate::way::Leg;

    fn at(lat: f64, lng: f64) -> Position {
        Position { lat, lng }
    }

    #[test]
    fn a_way_is_known_between_its_cells_for_its_hour() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let way = Way { from: at(40.70010, -74.00010), to: at(40.71010, -74.00010) };
        let near = Way { from: at(40.70040, -74.00040), ..way };
        let road = Road::Leg(Leg { distance_m: 1_500.0, duration_s: 200.0 });
        let mut cache = Cache::default();
        assert_eq!(cache.get(&way, now), None);
        cache.put(&way, road, now);
        assert_eq!(cache.get(&near, now), Some(road));
        assert_eq!(cache.get(&Way { from: at(40.70060, -74.00010), ..way }, now), None);
        assert_eq!(cache.get(&Way { from: way.to, to: way.from }, now), None);
        assert_eq!(cache.get(&way, now + chrono::Duration::hours(1)), None);
        cache.put(&near, Road::None, now);
        assert_eq!(cache.get(&way, now), Some(Road::None));
    }

    #[test]
    fn the_cache_is_bounded_and_forgets_the_oldest_first() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let way = |n: usize| Way { from: at(n as f64 * 0.001, 0.0002), to: at(0.0002, 0.0002) };
        let mut cache = Cache::default();
        let count = 2 * GENERATION_MAX + 1;
        for n in 0..count {
            cache.put(&way(n), Road::None, now);
        }
        assert_eq!(cache.newer.len() + cache.older.len(), GENERATION_MAX + 1);
        assert_eq!((cache.get(&way(0), now), cache.get(&way(count - 1), now)), (None, Some(Road::None)));
    }

    #[test]
    fn a_batch_has_one_destination_and_a_bound() {
        let to = |n: i32| at(40.8, f64::from(n));
        let ways = [(0, 1), (1, 1), (2, 2), (0, 1), (3, 1)];
        let ways = ways.map(|(from, n)| Way { from: at(40.7, f64::from(from)), to: to(n) });
        let batches = by_destination(&ways, 2);
        let froms: Vec<Vec<f64>> = batches.iter().map(|b| b.iter().map(|way| way.from.lng).collect()).collect();
        assert_eq!(froms, [vec![0.0, 1.0], vec![2.0], vec![3.0]]);
    }
}
