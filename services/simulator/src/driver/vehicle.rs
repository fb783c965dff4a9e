//! A driver's vehicle on its way to a target in a straight line, and the phone in it, whose clock may be off. Pure: the time
//! comes from outside.

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::outgoing_positions::Point;
use crate::position::Position;

#[derive(Debug)]
pub(super) struct Vehicle {
    pub(super) position: Position,
    pub(super) target: Position,
    /// Metres a real second.
    pub(super) speed_mps: f64,
    /// How far the phone's clock is ahead; negative if it is behind.
    pub(super) clock_offset: chrono::Duration,
    moved_at: Instant,
    /// The car stands until then.
    stands_until: Option<Instant>,
    /// What the receiver repeats, and how often still.
    frozen: Option<(Position, u32)>,
    /// Points measured while the car stood.
    points_standing: u32,
    /// Of the newest point; no two points have the same time.
    recorded_at: DateTime<Utc>,
}

impl Vehicle {
    pub(super) fn new(
        position: Position,
        target: Position,
        speed_mps: f64,
        clock_offset: chrono::Duration,
        now: Instant,
    ) -> Self {
        Self {
            position,
            target,
            speed_mps,
            clock_offset,
            moved_at: now,
            stands_until: None,
            frozen: None,
            points_standing: 0,
            recorded_at: DateTime::UNIX_EPOCH,
        }
    }

    /// Sets off to `target`.
    pub(super) fn head_for(&mut self, target: Position, now: Instant) {
        self.target = target;
        self.moved_at = now;
    }

    pub(super) fn stop(&mut self) {
        self.target = self.position;
    }

    /// Stands still until `until`.
    pub(super) fn stand(&mut self, until: Instant) {
        self.stands_until = Some(until);
    }

    /// Lets the receiver repeat the present place for so many points.
    pub(super) fn freeze(&mut self, points: u32) {
        self.frozen = Some((self.position, points));
    }

    /// Lets the receiver measure again.
    pub(super) fn thaw(&mut self) {
        self.frozen = None;
    }

    pub(super) fn is_there(&self) -> bool {
        self.position == self.target
    }

    pub(super) fn left_m(&self) -> f64 {
        self.position.distance_m(&self.target)
    }

    /// Moves by the time since the last move. Returns the position before.
    pub(super) fn advance(&mut self, now: Instant) -> Position {
        self.stands_until = self.stands_until.filter(|until| now < *until);
        if self.stands_until.is_some() {
            self.moved_at = now;
            return self.position;
        }
        let step_m = self.speed_mps * now.duration_since(self.moved_at).as_secs_f64();
        self.moved_at = now;
        let before = self.position;
        self.position = before.toward(&self.target, step_m);
        before
    }

    /// Measures position, speed and heading after a move from `before`; `now` is the true time.
    pub(super) fn measure(&mut self, before: &Position, now: DateTime<Utc>) -> Point {
        self.recorded_at = (now + self.clock_offset).max(self.recorded_at + chrono::Duration::microseconds(1));
        Point {
            position: self.measured_position(),
            speed_mps: if *before == self.position { 0.0 } else { self.speed_mps },
            heading_deg: before.heading_deg(&self.position),
            recorded_at: self.recorded_at,
        }
    }

    /// Where the receiver believes to be.
    fn measured_position(&mut self) -> Position {
        if let Some((position, left)) = self.frozen.take().filter(|(_, left)| *left > 0) {
            self.frozen = Some((position, left - 1));
            return position;
        }
        if self.stands_until.is_none() {
            return self.position;
        }
        // Places within 8 m, in no order.
        self.points_standing = self.points_standing.wrapping_add(1);
        let angle = f64::from(self.points_standing) * 2.4;
        let away_m = 8.0 * (f64::from(self.points_standing) * 0.618).fract();
        self.position.offset(away_m * angle.sin(), away_m * angle.cos())
    }

    /// A false point 100 km off, at the time of `point`, which is moved behind it.
    pub(super) fn jump(&mut self, point: &mut Point) -> Point {
        let jump = Point { position: point.position.offset(70_000.0, 70_000.0), ..point.clone() };
        point.recorded_at += chrono::Duration::milliseconds(1);
        self.recorded_at = point.recorded_at;
        jump
    }
}
