//! The track of one ride: points in the order in which the device recorded them, without GPS jumps, and the distance. Pure.
//!
//! The result depends on the set of points only, not on the order in which they arrived nor on repeats. Of two points with one
//! `recorded_at` the first to arrive counts; the primary key of the rows makes the same choice.
//!
//! # Which points count
//! A point can follow another if the maximum speed suffices to get there. This relation is transitive: if b can follow a, and
//! c can follow b, then c can follow a. So a track is a *line*: a sequence in which each point can follow the one before. The
//! track is the line with the most points; of lines with equally many, the shorter one, so that nobody pays for a doubt. A
//! single bad point loses against the good points around it, even if it is the first one, or if a long silence before it made
//! it possible.
//!
//! Sometimes a line cannot follow any earlier point, because the device itself jumped: its clock was corrected, or its position
//! had been frozen in a tunnel. Such a line continues the best line once it has [`CONFIRMED`] points. The gap between the two
//! adds no distance: nobody can have driven it. A silence that can have been driven through, as in a tunnel, adds its straight
//! line.
//!
//! # How far
//! The distance is measured as with a leash. A marker is pulled behind the newest point by a leash of [`slack_m`], and the
//! distance is the marker's way plus the rest of the leash. On a straight way this is the exact sum, however short the hops
//! are. A device that stands still moves within the leash, so its noise adds nothing more. The cost: a right-angled corner is
//! cut by 0.69 times the slack (the tractrix), 7 m for a good device.

pub(crate) mod arrived_rides;
pub(crate) mod rows;

use std::collections::BTreeMap;
use std::ops::Bound;

use chrono::{DateTime, Utc};
use streams::Position;
use streams::event::TrackPoint;

/// The default of TRACK_MAX_SPEED_MPS: 252 km/h. A point that would need more is a jump.
pub(crate) const MAX_SPEED_MPS: f64 = 70.0;
/// A point that its device trusts less than this says nothing about a street.
const MAX_ACCURACY_M: f64 = 200.0;
/// Twice the 4.9 m within which a phone is right under open sky (van Diggelen and Enge 2015, quoted on gps.gov): two fixes of
/// a phone that stands still are seldom farther apart.
const MIN_SLACK_M: f64 = 10.0;
/// After a jump, this many points must agree with each other before their line continues the best one.
const CONFIRMED: u64 = 3;
/// How many lines are candidates beside the best one. Fewer bad points in a row than this are left out without a gap, even if
/// they agree with each other.
const RECENT_LINES: usize = 8;
/// Points between two checkpoints. For a late point, at most this many points before it are processed again.
const CHECKPOINT_EVERY: usize = 128;

/// One position as its device recorded it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fix {
    pub(crate) recorded_at: DateTime<Utc>,
    pub(crate) position: Position,
    /// Radius of uncertainty; `None` if the device does not say.
    pub(crate) accuracy_m: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct TrackSummary {
    /// To the centimetre.
    pub(crate) distance_m: f64,
    /// Points on the track; jumps are not.
    pub(crate) points: u64,
    /// The newest point on the track.
    pub(crate) last: Option<TrackPoint>,
}

/// The leash of a fix: a move within it cannot be distinguished from noise.
fn slack_m(accuracy_m: Option<f64>) -> f64 {
    accuracy_m.unwrap_or(0.0).max(MIN_SLACK_M)
}

/// The points of one ride. A new point costs one step; a late one the steps from the checkpoint before it.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    max_speed_mps: f64,
    fixes: BTreeMap<DateTime<Utc>, Fix>,
    /// The state after the newest point.
    tip: Lines,
    /// The state after the point with that time.
    checkpoints: BTreeMap<DateTime<Utc>, Lines>,
    points_since_checkpoint: usize,
    /// The oldest late point that `tip` does not include yet.
    changed_from: Option<DateTime<Utc>>,
}

impl Track {
    pub(crate) fn new(max_speed_mps: f64) -> Self {
        Self {
            max_speed_mps,
            fixes: BTreeMap::new(),
            tip: Lines::default(),
            checkpoints: BTreeMap::new(),
            points_since_checkpoint: 0,
            changed_from: None,
        }
    }

    /// Adds a point, in any order. False if there is one with its `recorded_at`: that one stays.
    pub(crate) fn add(&mut self, fix: Fix) -> bool {
        let at = fix.recorded_at;
        if self.fixes.contains_key(&at) {
            return false;
        }
        let is_newest = self.fixes.last_key_value().is_none_or(|(last, _)| *last < at);
        self.fixes.insert(at, fix);
        if is_newest && self.changed_from.is_none() {
            self.advance(at);
        } else {
            self.changed_from = Some(self.changed_from.map_or(at, |from| from.min(at)));
        }
        true
    }

    pub(crate) fn summary(&mut self) -> TrackSummary {
        if let Some(from) = self.changed_from.take() {
            self.rewind_before(from);
        }
        self.tip.summary()
    }

    /// Goes back to the last checkpoint before `from`, and steps through all points after it again.
    fn rewind_before(&mut self, from: DateTime<Utc>) {
        self.checkpoints.split_off(&from);
        let (after, lines) = match self.checkpoints.last_key_value() {
            Some((at, lines)) => (Bound::Excluded(*at), lines.clone()),
            None => (Bound::Unbounded, Lines::default()),
        };
        self.tip = lines;
        self.points_since_checkpoint = 0;
        let rest: Vec<DateTime<Utc>> = self.fixes.range((after, Bound::Unbounded)).map(|(at, _)| *at).collect();
        for at in rest {
            self.advance(at);
        }
    }

    fn advance(&mut self, at: DateTime<Utc>) {
        if let Some(fix) = self.fixes.get(&at) {
            self.tip.step(fix, self.max_speed_mps);
        }
        self.points_since_checkpoint += 1;
        if self.points_since_checkpoint >= CHECKPOINT_EVERY {
            self.points_since_checkpoint = 0;
            self.checkpoints.insert(at, self.tip.clone());
        }
    }
}

/// What is needed of a line to continue it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    last: TrackPoint,
    /// At the other end of the leash.
    marker: Position,
    /// The marker's way since the line began.
    marker_way_m: f64,
    /// Points since the line began.
    own_points: u64,
    /// Distance and points of the line that this one continues once it is confirmed.
    earlier_m: f64,
    earlier_points: u64,
}

impl Line {
    fn begin(fix: &Fix, after: Option<&Self>) -> Self {
        // An unconfirmed line cannot be continued, but the line before it can.
        let (earlier_m, earlier_points) = match after {
            Some(line) if line.is_confirmed() => (line.distance_m(), line.points()),
            Some(line) => (line.earlier_m, line.earlier_points),
            None => (0.0, 0),
        };
        let last = TrackPoint { location: fix.position, recorded_at: fix.recorded_at };
        Self { last, marker: fix.position, marker_way_m: 0.0, own_points: 1, earlier_m, earlier_points }
    }

    fn is_confirmed(&self) -> bool {
        self.own_points >= CONFIRMED
    }

    fn points(&self) -> u64 {
        if self.is_confirmed() { self.earlier_points + self.own_points } else { self.own_points }
    }

    fn distance_m(&self) -> f64 {
        let own = self.marker_way_m + self.marker.distance_m(&self.last.location);
        if self.is_confirmed() { self.earlier_m + own } else { own }
    }

    fn is_better_than(&self, other: &Self) -> bool {
        self.points() > other.points() || (self.points() == other.points() && self.distance_m() < other.distance_m())
    }

    fn can_reach(&self, fix: &Fix, max_speed_mps: f64) -> bool {
        let seconds = (fix.recorded_at - self.last.recorded_at).as_seconds_f64();
        self.last.location.distance_m(&fix.position) <= max_speed_mps * seconds
    }

    fn extended(&self, fix: &Fix) -> Self {
        let mut line = *self;
        let (slack, distance) = (slack_m(fix.accuracy_m), self.marker.distance_m(&fix.position));
        if distance > slack {
            line.marker_way_m += distance - slack;
            line.marker = between(fix.position, self.marker, slack / distance);
        }
        line.last = TrackPoint { location: fix.position, recorded_at: fix.recorded_at };
        line.own_points += 1;
        line
    }
}

/// The best line, and the newest others, of which one may become the best.
#[derive(Debug, Clone, Default, PartialEq)]
struct Lines {
    best: Option<Line>,
    recent: Vec<Line>,
}

impl Lines {
    /// Adds a point that is newer than all before it.
    fn step(&mut self, fix: &Fix, max_speed_mps: f64) {
        if fix.accuracy_m.is_some_and(|accuracy| accuracy > MAX_ACCURACY_M) {
            return;
        }
        // The best line has the most points: if it can reach the fix, no other line needs to be looked at.
        let best = self.best.filter(|line| line.can_reach(fix, max_speed_mps));
        let from = best.or_else(|| {
            let reaching = self.recent.iter().filter(|line| line.can_reach(fix, max_speed_mps));
            reaching.copied().reduce(|a, b| if b.is_better_than(&a) { b } else { a })
        });
        let line = match from {
            Some(line) => line.extended(fix),
            None => Line::begin(fix, self.best.as_ref()),
        };
        if self.recent.len() == RECENT_LINES {
            self.recent.remove(0);
        }
        self.recent.push(line);
        if self.best.is_none_or(|best| line.is_better_than(&best)) {
            self.best = Some(line);
        }
    }

    fn summary(&self) -> TrackSummary {
        self.best.map_or_else(TrackSummary::default, |line| TrackSummary {
            distance_m: (line.distance_m() * 100.0).round() / 100.0,
            points: line.points(),
            last: Some(line.last),
        })
    }
}

/// The place at `part` of the way from `a` to `b`, for ways short enough to be flat; across the antimeridian too.
fn between(a: Position, b: Position, part: f64) -> Position {
    let wrapped = |lng: f64| (lng + 540.0).rem_euclid(360.0) - 180.0;
    Position { lat: a.lat + (b.lat - a.lat) * part, lng: wrapped(a.lng + wrapped(b.lng - a.lng) * part) }
}

#[cfg(test)]
mod tests;
