//! The points of a driver as they leave the phone: most at once, some twice, late, in batches or out of order, and all
//! that were measured without a connection. Pure; it owns the points that were not sent yet.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::frame::rfc3339;
use crate::position::Position;

/// So many points are held back at most; the oldest go first.
const HELD: usize = 60;

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) position: Position,
    pub(crate) speed_mps: f64,
    pub(crate) heading_deg: f64,
    pub(crate) recorded_at: DateTime<Utc>,
}

impl Point {
    /// The data of a `location.update`.
    pub(crate) fn data(&self) -> Value {
        json!({
            "location": self.position,
            "accuracy_m": 5.0,
            "speed_mps": self.speed_mps,
            "heading_deg": self.heading_deg,
            "recorded_at": rfc3339(self.recorded_at),
        })
    }
}

/// Points held back, oldest first, and for how many more points.
#[derive(Debug, Default)]
pub(crate) struct Track {
    held: VecDeque<Point>,
    hold: u32,
}

impl Track {
    /// Takes a point and returns the data of the `location.update`s to send now, in order. Without a connection nothing
    /// is sent and the point is kept.
    pub(crate) fn add(&mut self, point: Point, connected: bool, faults: f64, rng: &mut StdRng) -> Vec<Value> {
        let fault = rng.random_bool(faults).then(|| rng.random_range(0..3));
        if !connected {
            self.hold(point);
            return Vec::new();
        }
        if self.hold > 0 {
            self.hold -= 1;
            self.hold(point);
            return if self.hold == 0 { self.flush() } else { Vec::new() };
        }
        match fault {
            // Twice.
            Some(0) => vec![point.data(), point.data()],
            // A batch, later.
            Some(1) => {
                self.hold = rng.random_range(1..4);
                self.hold(point);
                Vec::new()
            }
            // After the next one.
            Some(_) if self.held.is_empty() => {
                self.hold(point);
                Vec::new()
            }
            _ => {
                let mut data = vec![point.data()];
                data.extend(self.flush());
                data
            }
        }
    }

    /// All that was held back, as one message.
    pub(crate) fn flush(&mut self) -> Vec<Value> {
        self.hold = 0;
        let mut points: Vec<_> = self.held.drain(..).map(|point| point.data()).collect();
        match points.len() {
            0 => Vec::new(),
            1 => points,
            _ => {
                // The order of a batch means nothing: each point has its time.
                points.rotate_left(1);
                vec![json!({ "points": points })]
            }
        }
    }

    fn hold(&mut self, point: Point) {
        if self.held.len() >= HELD {
            self.held.pop_front();
        }
        self.held.push_back(point);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::BTreeSet;

    fn point(second: i64) -> Point {
        Point {
            position: Position { lat: 40.0, lng: -73.0 },
            speed_mps: 10.0,
            heading_deg: 0.0,
            recorded_at: DateTime::from_timestamp(second, 0).unwrap(),
        }
    }

    fn times(data: &[Value]) -> Vec<String> {
        let one = |value: &Value| value["recorded_at"].as_str().unwrap().to_owned();
        let all = |value: &Value| match value["points"].as_array() {
            Some(points) => points.iter().map(one).collect::<Vec<_>>(),
            None => vec![one(value)],
        };
        data.iter().flat_map(all).collect()
    }

    #[test]
    fn every_point_is_sent_some_twice_and_some_out_of_order() {
        let mut rng = StdRng::seed_from_u64(5);
        let mut track = Track::default();
        let mut sent = Vec::new();
        for second in 0..500 {
            sent.extend(times(&track.add(point(second), true, 0.3, &mut rng)));
        }
        sent.extend(times(&track.flush()));
        assert_eq!(sent.iter().collect::<BTreeSet<_>>().len(), 500);
        assert!(sent.len() > 500 && !sent.is_sorted());
    }

    #[test]
    fn points_without_a_connection_are_kept_up_to_a_limit() {
        let mut rng = StdRng::seed_from_u64(5);
        let mut track = Track::default();
        for second in 0..100 {
            assert!(track.add(point(second), false, 0.0, &mut rng).is_empty());
        }
        assert_eq!(times(&track.add(point(100), true, 0.0, &mut rng)).len(), HELD + 1);
    }
}
