//! The track of one ride: points in the order in which the device recorded them, GPS jumps left out, and the distance.
//!
//! Pure. The result depends on the set of points only: not on the order in which they came, nor on repeats (of two points
//! with one `recorded_at` the one that was first kept stays; the rows' primary key makes the same choice).
//!
//! # Which points count
//! One point can follow another if the maximum speed suffices to get there. That is an order of the kind of cause and effect
//! (if b can follow a, and c can follow b, then c can follow a), so a track is a *line*: a sequence in which each point can
//! follow the one before. The track is the line with the most points, and of equals the shorter, so that nobody pays for a
//! doubt. A single bad point, also the first, also one that a long silence made possible, loses against those around it.
//!
//! A line that nothing before can reach (the device itself jumped: a clock set right, a position frozen in a tunnel) goes on
//! from the best line once [`CONFIRMED`] points agree on it. The leap between the two counts nothing: a distance that nobody
//! can have driven is not billed. A silence that can have been driven through, such as a tunnel, counts as the straight line.
//!
//! # How far
//! The distance is drawn as with a leash: a marker is pulled behind the newest point at [`slack_m`], and its way counts, plus
//! what is left of the leash. On a straight way that is the exact sum however short the hops are, while the noise of a device
//! that stands still moves within the leash and adds nothing more. What it costs: a right-angled corner is cut by 0.69
//! times the slack (the tractrix), 7 m for a good device.

pub(crate) mod rows;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use streams::Position;
use streams::event::TrackPoint;

/// The speed beyond which a point is a jump, if the settings say nothing else: 252 km/h.
pub const MAX_SPEED_MPS: f64 = 70.0;
/// A point whose own device is less sure than this tells nothing about a street.
pub const MAX_ACCURACY_M: f64 = 200.0;
/// Twice the 4.9 m in which a phone is right under open sky (van Diggelen and Enge 2015, quoted on gps.gov): two fixes of a
/// phone that stands still are seldom farther apart.
pub const MIN_SLACK_M: f64 = 10.0;
/// Points that must agree before a line that nothing can reach is believed.
pub const CONFIRMED: u64 = 3;
/// Lines kept beside the best one, by their newest points: fewer bad points in a row than that, even if they agree with
/// each other, are left out without a seam.
const RECENT: usize = 8;
/// Points between two checkpoints; a late point costs at most so many more than those after it.
const CHECKPOINT_EVERY: usize = 128;

/// One position as its device recorded it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fix {
    /// When.
    pub recorded_at: DateTime<Utc>,
    /// Where.
    pub position: Position,
    /// Radius of uncertainty, metres; `None` if the device does not say.
    pub accuracy_m: Option<f64>,
}

/// What a track amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Summary {
    /// Driven, metres, to the centimetre.
    pub distance_m: f64,
    /// Points that the distance rests on.
    pub points: u64,
    /// The newest of them.
    pub last: Option<TrackPoint>,
}

/// The leash of a fix: within it a move cannot be told from noise.
pub fn slack_m(accuracy_m: Option<f64>) -> f64 {
    accuracy_m.unwrap_or(0.0).max(MIN_SLACK_M)
}

/// The track of a set of points, from nothing. What [`Track`] computes step by step.
pub fn measure(fixes: &BTreeMap<DateTime<Utc>, Fix>, max_speed_mps: f64) -> Summary {
    let mut walk = Walk::default();
    for fix in fixes.values() {
        walk.step(fix, max_speed_mps);
    }
    walk.summary()
}

/// Points of one ride, with what is needed to add one without beginning anew.
#[derive(Debug, Clone)]
pub struct Track {
    max_speed_mps: f64,
    fixes: BTreeMap<DateTime<Utc>, Fix>,
    /// Up to and with the newest point.
    tip: Walk,
    /// The walk up to and with that point.
    checkpoints: BTreeMap<DateTime<Utc>, Walk>,
    /// Points after the newest checkpoint.
    since_checkpoint: usize,
    /// The oldest point that `tip` does not hold in its place.
    changed_from: Option<DateTime<Utc>>,
}

impl Track {
    /// Without points.
    pub fn new(max_speed_mps: f64) -> Self {
        Self {
            max_speed_mps,
            fixes: BTreeMap::new(),
            tip: Walk::default(),
            checkpoints: BTreeMap::new(),
            since_checkpoint: 0,
            changed_from: None,
        }
    }

    /// Adds a point, in any order; false if there is one with its `recorded_at` already.
    pub fn add(&mut self, fix: Fix) -> bool {
        let at = fix.recorded_at;
        if self.fixes.contains_key(&at) {
            return false;
        }
        let newest = self.fixes.last_key_value().is_none_or(|(last, _)| *last < at);
        self.fixes.insert(at, fix);
        if newest && self.changed_from.is_none() {
            self.advance(at);
        } else {
            self.changed_from = Some(self.changed_from.map_or(at, |from| from.min(at)));
        }
        true
    }

    /// Points, whether they count or not.
    pub fn len(&self) -> usize {
        self.fixes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.fixes.is_empty()
    }

    /// Distance and points so far.
    pub fn summary(&mut self) -> Summary {
        if let Some(from) = self.changed_from.take() {
            self.checkpoints.split_off(&from);
            let sound = self.checkpoints.last_key_value().map(|(at, walk)| (*at, walk.clone()));
            self.since_checkpoint = 0;
            let rest: Vec<DateTime<Utc>> = match sound {
                Some((at, walk)) => {
                    self.tip = walk;
                    self.fixes
                        .range((std::ops::Bound::Excluded(at), std::ops::Bound::Unbounded))
                        .map(|f| *f.0)
                        .collect()
                }
                None => {
                    self.tip = Walk::default();
                    self.fixes.keys().copied().collect()
                }
            };
            for at in rest {
                self.advance(at);
            }
        }
        self.tip.summary()
    }

    fn advance(&mut self, at: DateTime<Utc>) {
        if let Some(fix) = self.fixes.get(&at) {
            self.tip.step(fix, self.max_speed_mps);
        }
        self.since_checkpoint += 1;
        if self.since_checkpoint >= CHECKPOINT_EVERY {
            self.since_checkpoint = 0;
            self.checkpoints.insert(at, self.tip.clone());
        }
    }
}

/// A line, as far as going on with it needs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    last: TrackPoint,
    /// The marker on the leash.
    marker: Position,
    /// The way of the marker since the line began.
    drawn_m: f64,
    /// Points since the line began.
    own: u64,
    /// What the line goes on from once it is confirmed.
    before_m: f64,
    before_points: u64,
}

impl Line {
    fn begin(fix: &Fix, after: Option<&Self>) -> Self {
        // What is not confirmed is nothing to go on from, but what it went on from itself is.
        let (before_m, before_points) = match after {
            Some(line) if line.own >= CONFIRMED => (line.distance_m(), line.points()),
            Some(line) => (line.before_m, line.before_points),
            None => (0.0, 0),
        };
        let last = TrackPoint { location: fix.position, recorded_at: fix.recorded_at };
        Self { last, marker: fix.position, drawn_m: 0.0, own: 1, before_m, before_points }
    }

    fn confirmed(&self) -> bool {
        self.own >= CONFIRMED
    }

    fn points(&self) -> u64 {
        if self.confirmed() { self.before_points + self.own } else { self.own }
    }

    fn distance_m(&self) -> f64 {
        let own = self.drawn_m + self.marker.distance_m(&self.last.location);
        if self.confirmed() { self.before_m + own } else { own }
    }

    fn beats(&self, other: &Self) -> bool {
        self.points() > other.points() || (self.points() == other.points() && self.distance_m() < other.distance_m())
    }

    fn reaches(&self, fix: &Fix, max_speed_mps: f64) -> bool {
        let seconds = (fix.recorded_at - self.last.recorded_at).as_seconds_f64();
        self.last.location.distance_m(&fix.position) <= max_speed_mps * seconds
    }

    fn extended(&self, fix: &Fix) -> Self {
        let mut line = *self;
        let (slack, distance) = (slack_m(fix.accuracy_m), self.marker.distance_m(&fix.position));
        if distance > slack {
            line.drawn_m += distance - slack;
            line.marker = between(fix.position, self.marker, slack / distance);
        }
        line.last = TrackPoint { location: fix.position, recorded_at: fix.recorded_at };
        line.own += 1;
        line
    }
}

/// The best line, and those that may become it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Walk {
    best: Option<Line>,
    recent: Vec<Line>,
}

impl Walk {
    fn step(&mut self, fix: &Fix, max_speed_mps: f64) {
        if fix.accuracy_m.is_some_and(|accuracy| accuracy > MAX_ACCURACY_M) {
            return;
        }
        // The best line has the most points, so if it can go on no other needs to be looked at.
        let best = self.best.filter(|line| line.reaches(fix, max_speed_mps));
        let from = best.or_else(|| {
            let reaching = self.recent.iter().filter(|line| line.reaches(fix, max_speed_mps));
            reaching.copied().reduce(|a, b| if b.beats(&a) { b } else { a })
        });
        let line = match from {
            Some(line) => line.extended(fix),
            None => Line::begin(fix, self.best.as_ref()),
        };
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push(line);
        if self.best.is_none_or(|best| line.beats(&best)) {
            self.best = Some(line);
        }
    }

    fn summary(&self) -> Summary {
        self.best.map_or_else(Summary::default, |line| Summary {
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
