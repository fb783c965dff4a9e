//! The positions of a driver on their way out of the phone. Most are sent at once; faults send some twice, late, in a batch or
//! out of order; without a connection they are buffered. Pure.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::frame::rfc3339;
use crate::position::Position;

/// The most points that are buffered; the oldest are dropped.
const BUFFER_MAX: usize = 60;

/// One GPS measurement.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    pub(super) position: Position,
    pub(super) speed_mps: f64,
    pub(super) heading_deg: f64,
    pub(super) recorded_at: DateTime<Utc>,
}

impl Point {
    /// The `data` of a `location.update`.
    pub(super) fn data(&self) -> Value {
        json!({
            "location": self.position,
            "accuracy_m": 5.0,
            "speed_mps": self.speed_mps,
            "heading_deg": self.heading_deg,
            "recorded_at": rfc3339(self.recorded_at),
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct OutgoingPositions {
    /// Oldest first.
    buffer: VecDeque<Point>,
    /// How many more points are buffered before all are sent as a batch.
    until_batch: u32,
}

impl OutgoingPositions {
    /// Returns the `data` of the `location.update`s to send now, in order, for a driver with a connection. `fault` is the
    /// probability that the point is not simply sent.
    pub(super) fn add(&mut self, point: Point, fault: f64, rng: &mut StdRng) -> Vec<Value> {
        let fault = roll(fault, rng);
        if self.until_batch > 0 {
            self.until_batch -= 1;
            self.push(point);
            return if self.until_batch == 0 { self.flush() } else { Vec::new() };
        }
        match fault {
            // Twice.
            Some(0) => vec![point.data(), point.data()],
            // Late, in a batch.
            Some(1) => {
                self.until_batch = rng.random_range(1..4);
                self.push(point);
                Vec::new()
            }
            // After the next one.
            Some(_) if self.buffer.is_empty() => {
                self.push(point);
                Vec::new()
            }
            _ => {
                let mut data = vec![point.data()];
                data.extend(self.flush());
                data
            }
        }
    }

    /// Buffers a point of a phone that sends nothing for now.
    pub(super) fn hold(&mut self, point: Point) {
        self.until_batch = 0;
        self.push(point);
    }

    /// Buffers the point of a driver without a connection. It rolls for a fault as [`Self::add`] does, so that both draw
    /// the same randomness.
    pub(super) fn add_offline(&mut self, point: Point, fault: f64, rng: &mut StdRng) {
        roll(fault, rng);
        self.push(point);
    }

    /// Empties the buffer into one `location.update`.
    pub(super) fn flush(&mut self) -> Vec<Value> {
        self.until_batch = 0;
        let mut points: Vec<_> = self.buffer.drain(..).map(|point| point.data()).collect();
        match points.len() {
            0 => Vec::new(),
            1 => points,
            _ => {
                // The platform must order a batch by `recorded_at`.
                points.rotate_left(1);
                vec![json!({ "points": points })]
            }
        }
    }

    fn push(&mut self, point: Point) {
        if self.buffer.len() >= BUFFER_MAX {
            self.buffer.pop_front();
        }
        self.buffer.push_back(point);
    }
}

/// Which of the three faults happens to a point, if any.
fn roll(fault: f64, rng: &mut StdRng) -> Option<u32> {
    rng.random_bool(fault).then(|| rng.random_range(0..3))
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
        let mut outgoing = OutgoingPositions::default();
        let mut sent = Vec::new();
        for second in 0..500 {
            sent.extend(times(&outgoing.add(point(second), 0.3, &mut rng)));
        }
        sent.extend(times(&outgoing.flush()));
        assert_eq!(sent.iter().collect::<BTreeSet<_>>().len(), 500);
        assert!(sent.len() > 500 && !sent.is_sorted());
    }

    #[test]
    fn points_without_a_connection_are_buffered_up_to_a_limit() {
        let mut rng = StdRng::seed_from_u64(5);
        let mut outgoing = OutgoingPositions::default();
        for second in 0..100 {
            outgoing.add_offline(point(second), 0.0, &mut rng);
        }
        assert_eq!(times(&outgoing.add(point(100), 0.0, &mut rng)).len(), BUFFER_MAX + 1);
    }
}
