//! A hash grid over moving points on the earth, for the question who is nearest.
//!
//! Its cells ([`Cells`]) are 250 m by 250 m at every latitude. For 100,000 moving points it was measured against trees and H3 (DESIGN.md),
//! and was the fastest in queries and in moves. Pure: no clock, no randomness. Results are sorted by distance, then id, so the same
//! calls give the same results. More pure pieces are about points: [`newest`], [`device_clock`] and [`rounding`].

mod cells;
pub mod device_clock;
pub mod newest;
pub mod rounding;

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use foldhash::fast::FixedState;
use streams::{Position, UserId};

use crate::cells::Area;
pub use crate::cells::{Cell, Cells};

const CELL_M: f64 = 250.0;
const CELLS: Cells = Cells::of_size(CELL_M);

/// A hash map whose iteration order no result depends on. No client chooses the keys, so a fixed seed is safe; with it the
/// same calls do the same work.
pub type Hashed<K, V> = HashMap<K, V, FixedState>;

/// Points by id. An id has one position at a time.
#[derive(Clone)]
pub struct Grid<K = UserId> {
    /// The cell of each id, and its index there.
    slots: Hashed<K, (Cell, usize)>,
    cells: Hashed<Cell, Vec<(K, Position)>>,
}

/// One result of [`Grid::nearest`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Near<K = UserId> {
    pub id: K,
    pub position: Position,
    /// From the centre of the query.
    pub distance_m: f64,
}

impl<K> Default for Grid<K> {
    fn default() -> Self {
        Self { slots: Hashed::default(), cells: Hashed::default() }
    }
}

impl<K> fmt::Debug for Grid<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grid").field("points", &self.slots.len()).finish_non_exhaustive()
    }
}

impl<K: Copy + Ord + Hash> Grid<K> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    #[cfg(test)]
    fn position(&self, id: K) -> Option<Position> {
        let (cell, at) = self.slots.get(&id)?;
        self.cells.get(cell)?.get(*at).map(|(_, position)| *position)
    }

    /// Moves `id` to `position`. An invalid position removes it.
    pub fn place(&mut self, id: K, position: Position) {
        if !position.is_valid() {
            self.remove(id);
            return;
        }
        let cell = CELLS.at(position);
        if let Some(&(old, at)) = self.slots.get(&id) {
            if old == cell {
                if let Some(entry) = self.cells.get_mut(&cell).and_then(|points| points.get_mut(at)) {
                    entry.1 = position;
                }
                return;
            }
            self.remove(id);
        }
        let points = self.cells.entry(cell).or_default();
        self.slots.insert(id, (cell, points.len()));
        points.push((id, position));
    }

    /// True if `id` had a position.
    pub fn remove(&mut self, id: K) -> bool {
        let Some((cell, at)) = self.slots.remove(&id) else { return false };
        if let Some(points) = self.cells.get_mut(&cell) {
            points.swap_remove(at);
            if let Some((moved, _)) = points.get(at) {
                self.slots.insert(*moved, (cell, at));
            }
            if points.is_empty() {
                self.cells.remove(&cell);
            }
        }
        true
    }

    /// The `k` nearest ids at most `radius_m` from `from` for which `is_wanted` is true, nearest first, equal distances in the
    /// order of ids. In which order `is_wanted` is called, and how often for one id, is not defined.
    pub fn nearest(
        &self,
        from: &Position,
        k: usize,
        radius_m: f64,
        mut is_wanted: impl FnMut(K) -> bool,
    ) -> Vec<Near<K>> {
        let center = *from;
        let mut found = Vec::new();
        if k == 0 || radius_m.is_nan() || radius_m < 0.0 || !center.is_valid() {
            return found;
        }
        // Searches a small circle first, and doubles it until enough is found. The smaller circles cost a third on top.
        let mut reach_m = CELL_M.min(radius_m);
        loop {
            found.clear();
            self.within(center, reach_m, &mut is_wanted, &mut found);
            if found.len() >= k || reach_m >= radius_m {
                break;
            }
            reach_m = (reach_m * 2.0).min(radius_m);
        }
        let order = |a: &Near<K>, b: &Near<K>| a.distance_m.total_cmp(&b.distance_m).then(a.id.cmp(&b.id));
        if found.len() > k {
            found.select_nth_unstable_by(k, order);
            found.truncate(k);
        }
        found.sort_unstable_by(order);
        found
    }

    fn within(&self, center: Position, reach_m: f64, is_wanted: &mut impl FnMut(K) -> bool, found: &mut Vec<Near<K>>) {
        let mut collect = |points: &[(K, Position)]| {
            for (id, position) in points {
                let distance_m = center.distance_m(position);
                if distance_m <= reach_m && is_wanted(*id) {
                    found.push(Near { id: *id, position: *position, distance_m });
                }
            }
        };
        let area = Area::around(CELLS, center, reach_m);
        if area.len() > self.cells.len() as f64 {
            // Fewer cells are in use than the circle covers.
            for points in self.cells.values() {
                collect(points);
            }
            return;
        }
        for row in area.rows.0..=area.rows.1 {
            let (first, count, columns) = area.columns(row);
            for step in 0..count {
                if let Some(points) = self.cells.get(&Cell::new(row, (first + step).rem_euclid(columns))) {
                    collect(points);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn at(lat: f64, lng: f64) -> Position {
        Position { lat, lng }
    }

    fn brute(points: &[(u32, Position)], center: Position, radius_m: f64, k: usize) -> Vec<u32> {
        let mut near: Vec<_> =
            points.iter().map(|(key, p)| (center.distance_m(p), *key)).filter(|n| n.0 <= radius_m).collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        near.into_iter().take(k).map(|n| n.1).collect()
    }

    fn keys(near: &[Near<u32>]) -> Vec<u32> {
        near.iter().map(|n| n.id).collect()
    }

    #[test]
    fn the_grid_finds_the_same_as_a_search_of_all_points() {
        let mut random = StdRng::seed_from_u64(7);
        // A city, the antimeridian, both poles, and a circle that only just misses a pole.
        for center in
            [at(40.7, -74.0), at(0.0, 180.0), at(-17.0, -179.999), at(90.0, 0.0), at(-89.99, 120.0), at(89.5, 10.0)]
        {
            let mut grid = Grid::new();
            let mut points: Vec<(u32, Position)> = Vec::new();
            for key in 0..600 {
                let lat: f64 = center.lat + random.random_range(-0.3..0.3);
                let spread = (0.3 / center.lat.to_radians().cos().abs().max(0.001)).min(180.0);
                let lng: f64 = center.lng + random.random_range(-spread..spread);
                let position = at(lat.clamp(-90.0, 90.0), (lng + 540.0).rem_euclid(360.0) - 180.0);
                grid.place(key, position);
                points.push((key, position));
            }
            for radius_m in [0.0, 120.0, 900.0, 5_000.0, 50_000.0, 30_000_000.0] {
                for k in [1, 10, 1_000] {
                    let from = points[random.random_range(0..points.len())].1;
                    for center in [center, from] {
                        let near = grid.nearest(&center, k, radius_m, |_| true);
                        assert_eq!(keys(&near), brute(&points, center, radius_m, k), "{center:?} {radius_m} {k}");
                    }
                }
            }
        }
    }

    #[test]
    fn moves_and_removals_leave_no_point_behind() {
        let mut random = StdRng::seed_from_u64(8);
        let (mut grid, mut points) = (Grid::new(), std::collections::BTreeMap::new());
        for _ in 0..20_000 {
            let key: u32 = random.random_range(0..200);
            if random.random_range(0..4) == 0 {
                assert_eq!(grid.remove(key), points.remove(&key).is_some());
            } else {
                let position = at(52.5 + random.random_range(0.0..0.05), 13.4 + random.random_range(0.0..0.05));
                grid.place(key, position);
                points.insert(key, position);
            }
        }
        let all: Vec<(u32, Position)> = points.into_iter().collect();
        assert_eq!(grid.len(), all.len());
        for (key, position) in &all {
            assert_eq!(grid.position(*key), Some(*position));
        }
        let center = at(52.52, 13.42);
        assert_eq!(keys(&grid.nearest(&center, 50, 2_000.0, |_| true)), brute(&all, center, 2_000.0, 50));
        let odd: Vec<_> = all.iter().copied().filter(|(key, _)| key % 2 == 1).collect();
        assert_eq!(keys(&grid.nearest(&center, 50, 2_000.0, |key| key % 2 == 1)), brute(&odd, center, 2_000.0, 50));
    }

    #[test]
    fn points_at_one_place_are_sorted_by_key() {
        let mut grid = Grid::new();
        for key in (0..100u32).rev() {
            grid.place(key, at(1.0, 1.0));
        }
        assert_eq!(keys(&grid.nearest(&at(1.0, 1.0), 5, 10.0, |_| true)), [0, 1, 2, 3, 4]);
        grid.place(3, at(f64::NAN, 0.0));
        assert_eq!(grid.position(3), None);
    }
}
