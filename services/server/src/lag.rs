//! How old the oldest message is that a consumer has not handled, from observations of its stream alone. Pure.
//!
//! NATS says how many messages wait, not since when. But a message behind the ack floor was stored after the moment when the stream ended
//! at that floor, and after the last moment when nothing waited. Both were observed, so that the lag is right to one interval of
//! observations, and never too small by more.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, Duration, Utc};
use streams::bus::{ConsumerInfo, StreamInfo};

/// Ends of a stream that are remembered: an hour of observations. A lag that is longer is that long at least.
const ENDS_MAX: usize = 720;

/// The last sequence of a stream at each observation in which it had grown, and when it last ended there.
#[derive(Debug, Default)]
struct Ends {
    known: VecDeque<(u64, DateTime<Utc>)>,
    /// Older ones were dropped.
    is_cut: bool,
}

impl Ends {
    fn add(&mut self, last_sequence: u64, at: DateTime<Utc>) {
        // The stream was recreated, and counts from 1 again.
        if self.known.back().is_some_and(|(last, _)| *last > last_sequence) {
            *self = Self::default();
        }
        match self.known.back_mut() {
            Some((last, last_at)) if *last == last_sequence => *last_at = at,
            _ => self.known.push_back((last_sequence, at)),
        }
        if self.known.len() > ENDS_MAX {
            self.known.pop_front();
            self.is_cut = true;
        }
    }

    /// Up to this moment nothing after `sequence` was stored. If that was before all that is remembered, the first moment that is.
    fn ended_at(&self, sequence: u64) -> Option<DateTime<Utc>> {
        let found = self.known.iter().rev().find(|(last, _)| *last <= sequence);
        found.or(self.known.front().filter(|_| self.is_cut)).map(|(_, at)| *at)
    }
}

/// The lags of all consumers.
#[derive(Debug, Default)]
pub(crate) struct Lags {
    ends: BTreeMap<String, Ends>,
    /// When nothing was waiting for a consumer, or when it was first observed.
    idle_at: BTreeMap<String, DateTime<Utc>>,
}

impl Lags {
    /// A stream, before its consumers of the same observation.
    pub(crate) fn observe_stream(&mut self, stream: &str, info: &StreamInfo, at: DateTime<Utc>) {
        self.ends.entry(stream.to_owned()).or_default().add(info.last_sequence, at);
    }

    /// The lag of a consumer.
    pub(crate) fn lag(&mut self, stream: &str, durable: &str, info: &ConsumerInfo, at: DateTime<Utc>) -> Duration {
        let idle_at = self.idle_at.entry(durable.to_owned()).or_insert(at);
        if info.pending == 0 && info.ack_pending == 0 {
            *idle_at = at;
            return Duration::zero();
        }
        let ended_at = self.ends.get(stream).and_then(|ends| ends.ended_at(info.ack_floor));
        at - ended_at.map_or(*idle_at, |ended_at| ended_at.max(*idle_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(last_sequence: u64) -> StreamInfo {
        StreamInfo { messages: 1, bytes: 1, first_sequence: 1, last_sequence, consumers: 1, max_bytes: 1 }
    }

    fn consumer(pending: u64, ack_floor: u64) -> ConsumerInfo {
        ConsumerInfo { pending, ack_pending: 0, redelivered: 0, ack_floor, delivered: ack_floor }
    }

    /// The lags at 0 s, 5 s, 10 s … of a consumer: (end of the stream, messages that wait, ack floor).
    fn lags(observed: &[(u64, u64, u64)]) -> Vec<i64> {
        let mut lags = Lags::default();
        let times = (0..).map(|n| DateTime::UNIX_EPOCH + Duration::seconds(5 * n));
        let mut lag = |(at, (last, pending, floor)): (DateTime<Utc>, &(u64, u64, u64))| {
            lags.observe_stream("S", &stream(*last), at);
            lags.lag("S", "c", &consumer(*pending, *floor), at).num_seconds()
        };
        times.zip(observed).map(&mut lag).collect()
    }

    #[test]
    fn a_consumer_that_stands_still_lags_more_and_more() {
        assert_eq!(lags(&[(10, 0, 10), (12, 2, 10), (15, 5, 10), (15, 5, 10), (15, 0, 15)]), [0, 5, 10, 15, 0]);
    }

    #[test]
    fn a_consumer_that_works_lags_as_far_as_its_floor() {
        assert_eq!(lags(&[(10, 0, 10), (20, 5, 15), (30, 10, 20), (40, 20, 20), (50, 10, 40)]), [0, 5, 5, 10, 5]);
    }

    #[test]
    fn a_filter_that_lets_little_through_is_no_lag() {
        assert_eq!(lags(&[(1_000, 0, 10), (2_000, 0, 10), (2_001, 1, 10)]), [0, 0, 5]);
    }

    #[test]
    fn a_recreated_stream_begins_again() {
        assert_eq!(lags(&[(1_000, 0, 1_000), (3, 3, 0), (3, 3, 0)]), [0, 5, 10]);
        let mut ends = Ends::default();
        (0..2_000).for_each(|n| ends.add(n, DateTime::UNIX_EPOCH));
        assert_eq!((ends.known.len(), ends.ended_at(0)), (ENDS_MAX, Some(DateTime::UNIX_EPOCH)));
    }
}
