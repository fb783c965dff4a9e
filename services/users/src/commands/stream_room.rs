//! Whether LOCATION_STREAM has room. It drops what is old when it is full, so what nobody has read yet would be lost although it was
//! acknowledged. So near its bound positions are refused, and phones hold them: those of free drivers first, those of rides last.
//!
//! How full it is follows from the last observation of the topology, which one process makes for all, and from the sequences of this pod's
//! own publishes since: they count what every pod has published. What was read since is not known: so a pod that finds the stream full
//! looks itself, once in [`LOOK_INTERVAL`] at most, and only while it has positions to publish.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use platform::Platform;
use streams::Subject;
use streams::bus::{Published, StreamInfo};
use tokio::time::{Instant, timeout};

/// Of positions, as the stream counts it with its headers. Of larger ones the mean is known once some are stored.
const MESSAGE_BYTES: u64 = 860;
/// The part of the stream that positions of rides may fill, and that of free drivers.
const RIDES_FILL: f64 = 0.9;
const FREE_FILL: f64 = 0.8;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const LOOK_WAIT: Duration = Duration::from_secs(2);

/// Whose positions they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Ride,
    Free,
}

#[derive(Debug, Default)]
pub(crate) struct StreamRoom {
    /// The newest sequence of this pod's publishes, and when it was published.
    newest: Mutex<Option<(u64, Instant)>>,
    /// What this pod saw itself. Locked while it looks: the others wait for what it sees, for [`LOOK_WAIT`] at most.
    seen: tokio::sync::Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    newest: Option<(StreamInfo, Instant)>,
    /// Also of a look without an answer: who waited for it does not look again.
    looked_at: Option<Instant>,
}

impl StreamRoom {
    fn newest(&self) -> MutexGuard<'_, Option<(u64, Instant)>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream has stored a position.
    pub(crate) fn published(&self, published: &Published, now: Instant) {
        *self.newest() = Some((published.sequence, now));
    }

    /// Whether there is room for `count` more.
    pub(crate) async fn has_room(&self, platform: &Platform, of: Of, count: usize) -> bool {
        let stream = &platform.topology.consumer(Subject::LocationUpdate, streams::Service::Location).stream;
        let newest = *self.newest();
        let observed = platform.topology_watch.newest();
        let observed = observed.as_deref().and_then(|o| Some((&o.state.stream(stream).ok()?.info, o.began_at)));
        // Before the first observation there is none to refuse by.
        let Some((info, at)) = observed else { return true };
        if is_below(of, info, at, newest, count) {
            return true;
        }
        let mut seen = self.seen.lock().await;
        let now = Instant::now();
        if seen.looked_at.is_none_or(|at| now >= at + LOOK_INTERVAL) {
            let looked = timeout(LOOK_WAIT, platform.bus.stream_info(stream)).await;
            seen.looked_at = Some(Instant::now());
            if let Ok(Ok(info)) = looked {
                seen.newest = Some((info, now));
            }
        }
        // Read again: others have published meanwhile.
        seen.newest.as_ref().is_some_and(|(info, at)| is_below(of, info, *at, *self.newest(), count))
    }
}

/// Whether the stream is filled to less than its part after `count` more: `info` as it was seen at `at`, `newest` the sequence that this pod
/// published last.
fn is_below(of: Of, info: &StreamInfo, at: Instant, newest: Option<(u64, Instant)>, count: usize) -> bool {
    if info.max_bytes <= 0 {
        return true;
    }
    // A stream that was created again counts from 1.
    let added =
        newest.filter(|(_, published)| *published >= at).map_or(0, |(s, _)| s.saturating_sub(info.last_sequence));
    let each = info.bytes.checked_div(info.messages).unwrap_or(0).max(MESSAGE_BYTES);
    let bytes = info.bytes as f64 + (added as f64 + count as f64) * each as f64;
    let part = match of {
        Of::Ride => RIDES_FILL,
        Of::Free => FREE_FILL,
    };
    bytes < part * info.max_bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_since_the_stream_was_seen_counts_and_rides_have_the_last_room() {
        let at = Instant::now();
        let later = at + Duration::from_secs(1);
        let info = |messages, last_sequence| StreamInfo {
            messages,
            bytes: messages * 1_000,
            first_sequence: 1,
            last_sequence,
            consumers: 4,
            max_bytes: 1_000_000,
        };
        let room = |messages, newest, count| {
            [Of::Free, Of::Ride].map(|of| is_below(of, &info(messages, 5_000), at, newest, count))
        };
        assert_eq!(room(0, None, 1), [true, true]);
        assert_eq!(room(790, None, 1), [true, true]);
        assert_eq!(room(800, None, 1), [false, true]);
        assert_eq!(room(899, None, 1), [false, false]);
        // Of all pods, as the sequence says.
        assert_eq!(room(400, Some((5_450, later)), 1), [false, true]);
        assert_eq!(room(400, Some((5_450, later)), 50), [false, false]);
        assert_eq!(room(400, Some((4_000, at - Duration::from_secs(1))), 1), [true, true], "published before");
        assert_eq!(room(400, Some((3, later)), 1), [true, true], "it was created again");
        let unbounded = StreamInfo { max_bytes: -1, ..info(800, 1) };
        assert!(is_below(Of::Free, &unbounded, at, None, 1));
    }
}
