//! The clock of a device that measures positions, against the server's. Pure.
//!
//! The offset of a device is what must be added to its time to get the server's. A message is never received before it is sent, so
//! that `received_at - device time` is the offset plus a delay of 0 or more.
//!
//! - With `sent_at` the delay is that of the network, and the least of the last readings is the offset.
//! - Without it, a clock that is behind and a point that is sent late look alike. Only points that arrive live tell them apart: at
//!   least three, received at the intervals at which they were measured. Until then a device is taken at its word.
//! - A time later than its reception is wrong by at least the difference, whatever the offset: no corrected time is later than its
//!   reception by more than a second, up to which no clock is right. A few such points alone move no other point, because they may be wrong fixes.

use chrono::{DateTime, Duration, Utc};

/// How many readings are remembered.
const READINGS_MAX: usize = 8;
/// Readings closer than this to the one before add nothing, however fast a device sends.
const READING_INTERVAL_MS: i64 = 500;
/// Points that arrive live: at least so many, over at least this time, whose delays differ by at most this.
const LIVE_MIN: usize = 3;
const LIVE_SPAN_MIN_MS: i64 = 2_000;
const LIVE_SPREAD_MAX_MS: i64 = 2_000;
/// Points of the future that are further ahead than the others of their message by more than this are wrong fixes.
const WRONG_FIX_MS: i64 = 20_000;
/// A message over a socket is under way for no longer: the socket closes after this silence.
const DELAY_MAX_MS: i64 = 60_000;
/// A smaller offset is no more than the delay of the network: the clock counts as right.
const RIGHT_WITHIN_MS: i64 = 1_000;

/// One reception: the newest point of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// When the device measured the point, by its own clock.
    pub device_at: DateTime<Utc>,
    /// When the device sent the message, by its own clock, if it says so.
    pub sent_at: Option<DateTime<Utc>>,
    /// When the server received the message, by the server's clock.
    pub received_at: DateTime<Utc>,
}

impl Reading {
    /// The offset plus a delay, and whether the delay is that of the network alone.
    fn measured(&self) -> Measured {
        // What is measured after it was sent was not measured by the clock that says when it was sent, or not at all. That clock says
        // nothing about the point then: times of two clocks are never compared.
        let sent_at = self.sent_at.filter(|sent| *sent + Duration::milliseconds(LIVE_SPREAD_MAX_MS) >= self.device_at);
        let by = sent_at.unwrap_or(self.device_at);
        let at_ms = self.received_at.timestamp_millis();
        Measured { at_ms, offset_ms: at_ms - by.timestamp_millis(), is_sent_at: sent_at.is_some() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Measured {
    at_ms: i64,
    offset_ms: i64,
    is_sent_at: bool,
}

/// What the last receptions show of one device's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceClock {
    /// The oldest first.
    readings: Vec<Measured>,
    /// `None` until something shows it.
    offset_ms: Option<i64>,
}

impl DeviceClock {
    /// Takes a reception into account. They come in the order of their reception. True if the offset is known after it, and was
    /// not, or was another.
    pub fn read(&mut self, reading: &Reading) -> bool {
        let (new, before) = (reading.measured(), self.offset_ms);
        if self.readings.last().is_some_and(|last| new.at_ms < last.at_ms) {
            return false;
        }
        if new.is_sent_at && before.is_some_and(|known| new.offset_ms - known > DELAY_MAX_MS) {
            // Later than any message can be: the clock was set back.
            self.readings.clear();
        }
        match self.readings.last_mut() {
            Some(last) if new.at_ms - last.at_ms < READING_INTERVAL_MS && new.is_sent_at == last.is_sent_at => {
                // A burst. The times of sending say the more the later they are; the others may have waited for any time.
                if new.is_sent_at {
                    last.offset_ms = last.offset_ms.min(new.offset_ms);
                }
            }
            _ => {
                if self.readings.len() == READINGS_MAX {
                    self.readings.remove(0);
                }
                self.readings.push(new);
            }
        }
        let live = self.live();
        if !self.readings.last().is_some_and(|newest| newest.is_sent_at) {
            self.offset_ms = live.map_or(self.offset_ms, |(offset_ms, _)| Some(offset_ms));
        } else {
            // If all of the last few are later than the least before, the clock was set, or the network has become slower.
            if let (Some((offset_ms, count)), Some(known)) = (live, before)
                && offset_ms - known > LIVE_SPREAD_MAX_MS
            {
                self.readings.drain(..self.readings.len() - count);
            }
            self.offset_ms = self.readings.iter().filter(|r| r.is_sent_at).map(|r| r.offset_ms).min();
        }
        self.offset_ms != before
    }

    /// The least offset of the readings that arrived live, up to the newest one, and how many they are.
    fn live(&self) -> Option<(i64, usize)> {
        let newest = self.readings.last()?;
        let (mut least, mut most, mut found) = (newest.offset_ms, newest.offset_ms, None);
        for (count, reading) in self.readings.iter().rev().enumerate() {
            if reading.is_sent_at != newest.is_sent_at {
                break;
            }
            least = least.min(reading.offset_ms);
            most = most.max(reading.offset_ms);
            if most - least > LIVE_SPREAD_MAX_MS {
                break;
            }
            let span_ms = newest.at_ms - reading.at_ms;
            // A buffer that is sent at twice its speed is not live: its delays fall as fast as time passes.
            if count + 1 >= LIVE_MIN && span_ms >= LIVE_SPAN_MIN_MS && (most - least) * 2 <= span_ms {
                found = Some((least, count + 1));
            }
        }
        found
    }

    /// Whether something has shown the offset.
    pub fn is_known(&self) -> bool {
        self.offset_ms.is_some()
    }

    /// What is added to the device's time: zero if nothing has shown it, or if it is as small as a delay of the network.
    pub fn offset(&self) -> Duration {
        let offset_ms = self.offset_ms.filter(|ms| ms.abs() > RIGHT_WITHIN_MS).unwrap_or(0);
        Duration::milliseconds(offset_ms)
    }

    /// When the point was measured, by the server's clock, as far as the device's clock says so: it may be later than its
    /// reception if the point is wrong.
    pub fn claimed(&self, reading: &Reading) -> DateTime<Utc> {
        reading.device_at + self.offset()
    }

    /// When the point was measured, by the server's clock: not later than its reception, but for what no clock is right to.
    pub fn corrected(&self, reading: &Reading) -> DateTime<Utc> {
        self.shifted(reading, Duration::zero())
    }

    fn shifted(&self, reading: &Reading, by: Duration) -> DateTime<Utc> {
        let at = self.claimed(reading) - by;
        if at - reading.received_at <= Duration::milliseconds(RIGHT_WITHIN_MS) { at } else { reading.received_at }
    }

    /// The same for all points of one message, in their order. Two or more that are later than their reception show a clock that is ahead:
    /// all are shifted by as much, so that their intervals stay. One alone shifts no other. Wrong fixes come just before the newest of
    /// the others, which says where the device is.
    pub fn corrected_message(&self, points: &[Reading]) -> Vec<DateTime<Utc>> {
        let right_within = Duration::milliseconds(RIGHT_WITHIN_MS);
        let ahead = |point: &Reading| self.claimed(point) - point.received_at;
        let mut sorted: Vec<Duration> = points.iter().map(ahead).collect();
        sorted.sort();
        let right = &sorted[..sorted.len() - wrong_fixes(&sorted)];
        let shift = match right {
            [.., second, most] if *second > right_within => *most,
            _ => Duration::zero(),
        };
        let newest = right.last().copied().unwrap_or_default();
        let is_wrong = |point: &Reading| ahead(point) > newest;
        let newest_right = points.iter().filter(|p| !is_wrong(p)).map(|point| self.shifted(point, shift)).max();
        let time = |point: &Reading| match newest_right.filter(|_| is_wrong(point)) {
            Some(newest_right) => newest_right - Duration::milliseconds(1),
            None => self.shifted(point, shift),
        };
        points.iter().map(time).collect()
    }
}

/// How many of the last points of a message are wrong fixes. `ahead` says in order by how much each point is later than its reception:
/// wrong ones are later than all others by far, and fewer, or one alone.
fn wrong_fixes(ahead: &[Duration]) -> usize {
    let is_far = |pair: &[Duration]| pair[1] - pair[0] > Duration::milliseconds(WRONG_FIX_MS);
    let begins = |at: &usize| {
        let (others, wrong) = (*at, ahead.len() - at);
        is_far(&ahead[at - 1..=*at])
            && ahead[*at] > Duration::milliseconds(RIGHT_WITHIN_MS)
            && (wrong == 1 || wrong < others)
    };
    (1..ahead.len()).find(begins).map_or(0, |at| ahead.len() - at)
}

/// When each point of one device was measured, by the server's clock, with what all of them together show of its clock. The order
/// of `points` does not matter, and the results are in that order. Several points of one message have one `received_at`.
pub fn corrected(points: &[Reading]) -> Vec<DateTime<Utc>> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    // Of a message the newest point is the reading.
    order.sort_by_key(|at| (points[*at].received_at, points[*at].device_at, *at));
    let mut clock = DeviceClock::default();
    // The clock after each message that changed what is known, with the time of its first reading.
    let mut known: Vec<(i64, DeviceClock)> = Vec::new();
    for (nth, at) in order.iter().enumerate() {
        let point = &points[*at];
        let is_newest = order.get(nth + 1).is_none_or(|next| points[*next].received_at > point.received_at);
        if is_newest && clock.read(point) {
            // The offset was the same for the readings that show it.
            let newest = clock.readings.last().map_or(0, |reading| reading.offset_ms);
            let shows = |r: &&Measured| (r.offset_ms - newest).abs() <= LIVE_SPREAD_MAX_MS;
            let from = clock.readings.iter().rev().take_while(shows).last().map_or(0, |reading| reading.at_ms);
            known.push((from, clock.clone()));
        }
    }
    let unknown = DeviceClock::default();
    let mut times: Vec<DateTime<Utc>> = points.iter().map(|point| point.device_at).collect();
    for message in order.chunk_by(|a, b| points[*a].received_at == points[*b].received_at) {
        let of_message: Vec<Reading> = message.iter().map(|at| points[*at]).collect();
        let received_ms = of_message.first().map_or(0, |point| point.received_at.timestamp_millis());
        let in_force = known.iter().rev().find(|(from, _)| *from <= received_ms).or(known.first());
        let clock = in_force.map_or(&unknown, |(_, clock)| clock);
        for (at, time) in message.iter().zip(clock.corrected_message(&of_message)) {
            times[*at] = time;
        }
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::milliseconds(1_000_000 + (seconds * 1e3).round() as i64)
    }

    fn reading(device: f64, received: f64) -> Reading {
        Reading { device_at: at(device), sent_at: None, received_at: at(received) }
    }

    /// Seconds of the offset after each reading of (device, received).
    fn offsets(readings: &[(f64, f64)]) -> Vec<f64> {
        let mut clock = DeviceClock::default();
        let read = |(device, received): &(f64, f64)| {
            clock.read(&reading(*device, *received));
            clock.offset().as_seconds_f64()
        };
        readings.iter().map(read).collect()
    }

    #[test]
    fn three_live_points_show_a_clock_that_is_behind_or_ahead_and_small_offsets_are_none() {
        assert_eq!(offsets(&[(-20.0, 0.1), (-19.0, 1.3), (-18.0, 2.2), (-17.0, 3.1)]), [0.0, 0.0, 20.1, 20.1]);
        assert_eq!(offsets(&[(300.0, 0.1), (304.0, 4.1), (308.0, 8.4)]), [0.0, 0.0, -299.9]);
        assert_eq!(offsets(&[(0.0, 0.3), (4.0, 4.5), (8.0, 8.3)]), [0.0, 0.0, 0.0]);
        // Ten a second.
        let fast: Vec<_> = (0..40).map(|n| (f64::from(n) / 10.0 - 90.0, f64::from(n) / 10.0)).collect();
        assert_eq!(offsets(&fast).last(), Some(&90.0));
    }

    #[test]
    fn a_buffer_that_is_sent_late_shows_nothing() {
        // A point each second for a minute, sent in a burst, at 2 a second, and at 4 a second with pauses.
        for pace in [0.01, 0.5, 0.25] {
            let late: Vec<_> = (0..60).map(|n| (f64::from(n) - 60.0, f64::from(n) * pace)).collect();
            assert!(offsets(&late).iter().all(|offset| *offset == 0.0), "{pace}");
        }
        // Once the clock is known, a late buffer does not change it.
        let mut readings: Vec<(f64, f64)> = (0..5).map(|n| (f64::from(n) * 4.0 - 20.0, f64::from(n) * 4.0)).collect();
        readings.extend((0..30).map(|n| (f64::from(n) * 4.0, 140.0 + f64::from(n) / 50.0)));
        assert_eq!(offsets(&readings).last(), Some(&20.0));
    }

    #[test]
    fn one_point_of_the_future_moves_no_other() {
        let mut clock = DeviceClock::default();
        let wrong = reading(55.0, 0.0);
        clock.read(&wrong);
        assert_eq!(clock.corrected(&wrong), at(0.0), "not later than its reception");
        for n in 1..6 {
            let right = reading(f64::from(n) * 4.0, f64::from(n) * 4.0);
            clock.read(&right);
            assert_eq!(clock.corrected(&right), right.device_at);
        }
        // In the midst of a known clock as well.
        let mut readings: Vec<(f64, f64)> = (0..5).map(|n| (f64::from(n) * 4.0 - 20.0, f64::from(n) * 4.0)).collect();
        readings.extend([(60.0, 20.0), (4.0, 24.0), (8.0, 28.0), (12.0, 32.0)]);
        assert!(offsets(&readings)[2..].iter().all(|offset| *offset == 20.0));
    }

    #[test]
    fn points_of_one_message_keep_their_intervals_and_a_wrong_one_among_them_shifts_no_other() {
        let seconds = |points: &[(f64, f64)]| -> Vec<f64> {
            let points: Vec<Reading> = points.iter().map(|(device, received)| reading(*device, *received)).collect();
            let alone = DeviceClock::default().corrected_message(&points);
            assert_eq!(alone, corrected(&points));
            alone.iter().map(|time| (*time - at(0.0)).num_milliseconds() as f64 / 1e3).collect()
        };
        assert_eq!(seconds(&[(30.0, 0.0), (22.0, 0.0), (26.0, 0.0), (-2.0, 0.0)]), [0.0, -8.0, -4.0, -32.0]);
        assert_eq!(seconds(&[(-8.0, 0.0), (55.0, 0.0), (-4.0, 0.0)]), [-8.0, -4.001, -4.0]);
        assert_eq!(
            seconds(&[(60.0, 0.0), (4.0, 0.0), (2.0, 0.0)]),
            [-0.001, 0.0, -2.0],
            "a wrong one, and a clock 4 s ahead"
        );
        assert!(seconds(&[]).is_empty());
    }

    #[test]
    fn a_clock_that_is_set_is_followed() {
        let mut readings: Vec<(f64, f64)> = (0..5).map(|n| (f64::from(n) * 4.0 - 20.0, f64::from(n) * 4.0)).collect();
        readings.extend((5..9).map(|n| (f64::from(n) * 4.0, f64::from(n) * 4.0)));
        let offsets = offsets(&readings);
        assert_eq!((offsets[4], offsets[7]), (20.0, 0.0));
    }

    #[test]
    fn with_the_time_of_sending_one_message_shows_the_clock() {
        let mut clock = DeviceClock::default();
        let sent = |device: f64, sent: f64, received: f64| Reading {
            device_at: at(device),
            sent_at: Some(at(sent)),
            received_at: at(received),
        };
        // Measured a minute before it was sent, by a clock five minutes ahead.
        let late = sent(240.0, 300.0, 0.4);
        clock.read(&late);
        assert_eq!(clock.corrected(&late), at(-59.6));
        clock.read(&sent(301.0, 304.0, 4.1));
        assert_eq!(clock.corrected(&late), at(-59.9), "the least delay");
        // A slow message changes nothing, several do, and the next fast one again.
        clock.read(&sent(308.0, 308.0, 17.0));
        assert_eq!(clock.offset().as_seconds_f64(), -299.9);
        for n in 0..4 {
            clock.read(&sent(400.0, 400.0 + f64::from(n) * 4.0, 500.0 + f64::from(n) * 4.0));
        }
        assert_eq!(clock.offset().as_seconds_f64(), 100.0, "the clock was set");
        // A fix of the future of its own device.
        let wrong = sent(500.0, 416.0, 516.0);
        assert_eq!(clock.corrected(&wrong), at(516.0));
        assert_eq!(clock.claimed(&wrong), at(600.0));
    }

    #[test]
    fn a_time_of_sending_by_another_clock_moves_no_point() {
        let at_and_sent = |device: f64, sent: f64, received: f64| Reading {
            device_at: at(device),
            sent_at: Some(at(sent)),
            received_at: at(received),
        };
        let seconds = |times: Vec<DateTime<Utc>>| -> Vec<f64> {
            times.iter().map(|time| (*time - at(0.0)).as_seconds_f64()).collect()
        };
        // The receiver's time is right, and the clock that says when it was sent is minutes behind, cut to seconds, or stands still.
        for (behind, is_constant) in [(300.0, false), (0.9, false), (0.0, true)] {
            let sent = |n: i32| if is_constant { -9_000.0 } else { f64::from(n) * 4.0 - behind };
            let points: Vec<Reading> =
                (0..8).map(|n| at_and_sent(f64::from(n) * 4.0, sent(n), f64::from(n) * 4.0 + 0.05)).collect();
            let expected: Vec<f64> = (0..8).map(|n| f64::from(n) * 4.0).collect();
            assert_eq!(seconds(corrected(&points)), expected, "{behind}");
            // All points of a batch stay apart.
            let batch: Vec<Reading> = (0..8).map(|n| at_and_sent(f64::from(n) / 10.0, -behind, 1.0)).collect();
            let times = corrected(&batch);
            assert!(times.windows(2).all(|w| (w[1] - w[0]).num_milliseconds() == 100), "{behind}: {times:?}");
        }
        // The receiver is a minute and a half ahead, and the clock that says when it was sent is right: corrected once.
        let points: Vec<Reading> =
            (0..8).map(|n| at_and_sent(f64::from(n) * 4.0 + 90.0, f64::from(n) * 4.0, f64::from(n) * 4.0)).collect();
        assert_eq!(seconds(corrected(&points)), (0..8).map(|n| f64::from(n) * 4.0).collect::<Vec<_>>());
    }

    #[test]
    fn a_clock_that_is_set_back_by_hours_is_followed_at_once_if_the_time_of_sending_shows_it() {
        let sent = |at_s: f64, received: f64| Reading {
            device_at: at(at_s),
            sent_at: Some(at(at_s)),
            received_at: at(received),
        };
        for ahead in [7_200.0, 90_000.0, 61.5] {
            let mut clock = DeviceClock::default();
            (0..8).for_each(|n| _ = clock.read(&sent(f64::from(n) * 4.0 + ahead, f64::from(n) * 4.0)));
            let first = sent(32.0, 32.2);
            clock.read(&first);
            assert_eq!(clock.corrected(&first), at(32.0), "{ahead} s ahead until it was set");
            assert_eq!(clock.claimed(&first), at(32.0));
        }
        // As late as a message of an open socket may be, it is only late.
        let mut clock = DeviceClock::default();
        (0..8).for_each(|n| _ = clock.read(&sent(f64::from(n) * 4.0, f64::from(n) * 4.0)));
        let late = sent(32.0, 90.0);
        clock.read(&late);
        assert_eq!(clock.corrected(&late), at(32.0));
    }

    #[test]
    fn wrong_fixes_of_the_future_are_not_the_newest_of_their_message_and_shift_no_other() {
        let seconds = |points: &[f64]| -> Vec<f64> {
            let points: Vec<Reading> = points.iter().map(|device| reading(*device, 0.0)).collect();
            let times = DeviceClock::default().corrected_message(&points);
            times.iter().map(|time| (*time - at(0.0)).num_milliseconds() as f64 / 1e3).collect()
        };
        assert_eq!(seconds(&[-8.0, 55.0, -4.0]), [-8.0, -4.001, -4.0]);
        assert_eq!(seconds(&[-12.0, -8.0, 55.0, -4.0, 56.0, 0.0]), [-12.0, -8.0, -0.001, -4.0, -0.001, 0.0]);
        assert_eq!(seconds(&[30.0, 56.0, -8.0, -4.0, 0.0]), [-0.001, -0.001, -8.0, -4.0, 0.0]);
        // A clock that is ahead: the oldest of what the phone held back are in the past all the same.
        let buffer: Vec<f64> = (-60..=5).map(f64::from).collect();
        let expected: Vec<f64> = buffer.iter().map(|device| device - 5.0).collect();
        assert_eq!(seconds(&buffer), expected);
        // After a gap of the receiver as well, if most points come after it.
        assert_eq!(seconds(&[-30.0, 10.0, 14.0, 18.0]), [-48.0, -8.0, -4.0, 0.0]);
    }

    #[test]
    fn all_points_of_a_track_are_corrected_by_what_some_of_them_show() {
        // A minute of buffered points first, then live ones: the clock is 20 s behind.
        let mut points: Vec<Reading> = (0..15).map(|n| reading(f64::from(n) * 4.0 - 20.0, 60.0)).collect();
        points.extend((15..20).map(|n| reading(f64::from(n) * 4.0 - 20.0, f64::from(n) * 4.0 + 0.1)));
        let times: Vec<f64> = corrected(&points).iter().map(|t| (*t - at(0.0)).as_seconds_f64()).collect();
        let expected: Vec<f64> =
            (0..20).map(|n| (f64::from(n) * 4.0 + 0.1).min(if n < 15 { 60.0 } else { 1e9 })).collect();
        assert_eq!(times, expected);
        // In any order.
        points.reverse();
        let mut reversed: Vec<f64> = corrected(&points).iter().map(|t| (*t - at(0.0)).as_seconds_f64()).collect();
        reversed.reverse();
        assert_eq!(reversed, expected);
        assert!(corrected(&[]).is_empty());
        // A clock set under way: each part by its own.
        let part = |from: u32, to: u32, offset: f64| {
            (from..to).map(move |n| reading(f64::from(n) * 4.0 - offset, f64::from(n) * 4.0))
        };
        let points: Vec<Reading> = part(0, 8, 20.0).chain(part(8, 16, 0.0)).collect();
        let times: Vec<f64> = corrected(&points).iter().map(|t| (*t - at(0.0)).as_seconds_f64()).collect();
        assert_eq!(times, (0..16).map(|n| f64::from(n) * 4.0).collect::<Vec<_>>());
    }
}
