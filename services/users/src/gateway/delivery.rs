//! The events of one mailbox on their way to one client: which were sent, which are known to exist, and when the mailbox is
//! read. Nothing is sent but what is in the mailbox, in its order.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use platform::StoreError;
use std::sync::Arc;
use std::time::Duration;
use streams::{Subject, UserId};
use tokio::time::Instant;

use super::connection::SessionStart;
use super::frame::{self, EventFrame};
use super::inbox::WrittenFrame;
use super::outbound::{EventText, Sending};
use super::sockets::SocketSlot;
use crate::context::Context;
use crate::live_ride::{CurrentRides, RideChange};
use crate::mailbox::{self, Entry, MissedRange};
use crate::party::{self, FrameBody};

/// The event of which it is measured how soon it is on its way to the phone.
const OFFER: &str = Subject::MatchFound.as_str();
/// The most entries of one read of the mailbox.
const PAGE: usize = 100;
/// The pause after a read of the mailbox that failed.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// So long a frame waits for those before it: several processes write the frames of one user, and theirs overtake each other. Then the
/// mailbox is read.
const GAP_WAIT: Duration = Duration::from_millis(100);
/// Frames that wait for others at most.
const EARLY_MAX: usize = 16;

type Read = Result<Vec<Entry>, StoreError>;

pub(crate) struct Delivery<'a> {
    context: &'a Context,
    user: UserId,
    slot: &'a SocketSlot,
    /// The live rides of the user.
    rides: CurrentRides,
    /// The name of the device that accepted the one that the user drives.
    ride_device: Option<Arc<str>>,
    /// The newest `seq` when the session began. The rides were read after it, and already reflect all events up to it.
    start_seq: u64,
    /// The newest `seq` sent to the client.
    sent_seq: u64,
    /// The newest `seq` known to exist.
    newest_seq: u64,
    /// The client knows that entries up to here may be missing.
    missed_to: u64,
    /// The mailbox is not read before this time.
    read_at: Instant,
    reading: Option<BoxFuture<'a, Read>>,
    /// Frames that came before others of lower `seq`.
    early: BTreeMap<u64, WrittenFrame>,
    /// `newest_seq` when the read began.
    read_until_seq: u64,
    /// The last read of the mailbox failed.
    is_unreadable: bool,
}

fn frame_body(viewer: UserId, entry: &Entry) -> FrameBody<'_> {
    FrameBody { viewer, subject: &entry.subject, time: entry.time, body: &entry.body }
}

impl<'a> Delivery<'a> {
    /// `has_seq` is the newest event that the client has.
    pub(crate) fn new(
        context: &'a Context,
        slot: &'a SocketSlot,
        user: UserId,
        start: &SessionStart,
        has_seq: Option<u64>,
    ) -> Self {
        let (now, start_seq) = (Instant::now(), start.last_seq);
        Self {
            context,
            user,
            slot,
            rides: start.rides,
            ride_device: start.ride_device.clone(),
            start_seq,
            sent_seq: has_seq.map_or(start_seq, |seq| seq.min(start_seq)),
            newest_seq: start_seq,
            missed_to: start.missed.map_or(0, |missed| missed.to),
            read_at: now,
            reading: None,
            early: BTreeMap::new(),
            read_until_seq: 0,
            is_unreadable: false,
        }
    }

    /// The newest `seq` sent to the client.
    pub(crate) fn sent_seq(&self) -> u64 {
        self.sent_seq
    }

    /// Whether the client has the events that it missed before the session, or cannot have them now.
    pub(crate) fn has_resumed(&self) -> bool {
        self.sent_seq >= self.start_seq || self.is_unreadable
    }

    /// Whether the device with this name accepted the ride that the user drives.
    pub(crate) fn is_ride_device(&self, name: &str) -> bool {
        self.rides.driven.is_some() && self.ride_device.as_deref() == Some(name)
    }

    /// The live rides of the user, as the events that were sent say.
    pub(crate) fn rides(&self) -> &CurrentRides {
        &self.rides
    }

    /// The time at which the mailbox is to be read again, if the session waits for it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let is_behind = self.sent_seq < self.newest_seq;
        (is_behind && self.reading.is_none() && self.read_at > Instant::now()).then_some(self.read_at)
    }

    /// Begins to read the mailbox if it has entries that were not sent.
    pub(crate) fn begin_read(&mut self) {
        if self.reading.is_some() || self.read_at > Instant::now() || self.sent_seq >= self.newest_seq {
            return;
        }
        let (context, user, sent_seq) = (self.context, self.user, self.sent_seq);
        self.read_until_seq = self.newest_seq;
        let read = async move {
            let mut tx = context.store.begin().await?;
            let entries = mailbox::rows::entries_after(&mut tx, user, sent_seq, PAGE).await?;
            drop(tx);
            let frames: Vec<FrameBody<'_>> = entries.iter().map(|entry| frame_body(user, entry)).collect();
            let bodies = party::join(context, &frames).await?;
            drop(frames);
            Ok(entries.into_iter().zip(bodies).map(|(entry, body)| Entry { body, ..entry }).collect())
        };
        self.reading = Some(read.boxed());
    }

    /// The read that has begun; pending for ever if none has.
    pub(crate) async fn read(&mut self) -> Read {
        match &mut self.reading {
            Some(reading) => reading.await,
            None => std::future::pending().await,
        }
    }

    /// The frames to send after a read.
    pub(crate) fn on_read(&mut self, read: Read) -> Vec<EventText> {
        self.reading = None;
        self.is_unreadable = read.is_err();
        let entries = match read {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, "a mailbox cannot be read; it is read again in a second");
                self.read_at = Instant::now() + READ_PAUSE;
                return Vec::new();
            }
        };
        let is_last_page = entries.len() < PAGE;
        let mut frames = Vec::with_capacity(entries.len());
        for Entry { seq, event_id, subject, time, body } in entries {
            self.pass_gap(seq - 1, &mut frames);
            self.update_ride(seq, &subject, &body);
            self.sent_seq = seq;
            let sending = (subject == OFFER).then(|| Sending {
                subject: subject.clone(),
                occurred_at: Some(time),
                began_at: self.context.platform.world.now(),
                trace: None,
            });
            let text = frame::event(&subject, seq, &event_id, time, &body);
            frames.push(EventText { text, sending: sending.map(Box::new) });
        }
        if is_last_page {
            // Entries that are missing up to here were dropped: they will never come.
            self.pass_gap(self.read_until_seq, &mut frames);
        }
        self.newest_seq = self.newest_seq.max(self.sent_seq);
        self.send_early(&mut frames);
        frames
    }

    /// Passes over the entries up to `to` that were not sent. They are no longer there; the client learns it, unless its welcome
    /// said so.
    fn pass_gap(&mut self, to: u64, frames: &mut Vec<EventText>) {
        if to <= self.sent_seq {
            return;
        }
        if to > self.missed_to {
            let text = frame::missed(MissedRange { from: self.sent_seq + 1, to });
            frames.push(EventText { text, sending: None });
        }
        self.sent_seq = to;
    }

    /// A pod wrote this frame after the event's commit. Returns what is to be sent now: the frame if it is the next one, with those that
    /// waited for it. A frame that came before others waits for them; if they do not come the mailbox is read.
    pub(crate) fn on_event(&mut self, frame: &WrittenFrame) -> Vec<EventText> {
        let mut frames = Vec::new();
        let Ok(EventFrame { seq, .. }) = serde_json::from_str(&frame.text) else {
            return frames;
        };
        self.newest_seq = self.newest_seq.max(seq);
        if seq <= self.sent_seq {
            return frames;
        }
        if seq == self.sent_seq + 1 && self.reading.is_none() {
            self.send(seq, frame, &mut frames);
            self.send_early(&mut frames);
        } else if self.early.len() < EARLY_MAX {
            if self.early.is_empty() {
                self.read_at = self.read_at.max(Instant::now() + GAP_WAIT);
            }
            self.early.insert(seq, frame.clone());
        }
        frames
    }

    /// Sends the frames that waited, as far as nothing is missing.
    fn send_early(&mut self, frames: &mut Vec<EventText>) {
        while let Some((seq, frame)) = self.early.pop_first() {
            if seq > self.sent_seq + 1 {
                self.early.insert(seq, frame);
                break;
            }
            if seq == self.sent_seq + 1 {
                self.send(seq, &frame, frames);
            }
        }
    }

    fn send(&mut self, seq: u64, frame: &WrittenFrame, frames: &mut Vec<EventText>) {
        let text = &*frame.text;
        let Ok(EventFrame { subject, time, data, .. }) = serde_json::from_str(text) else {
            return;
        };
        self.update_ride(seq, &subject, data.get());
        self.sent_seq = seq;
        let sending = frame.trace.is_some() || subject == OFFER;
        let sending = sending.then(|| Sending {
            subject: subject.into_owned(),
            occurred_at: time.parse().ok(),
            began_at: self.context.platform.world.now(),
            trace: frame.trace.clone(),
        });
        frames.push(EventText { text: text.to_owned(), sending: sending.map(Box::new) });
    }

    /// A pod wrote this frame, but the client cannot take it now: the mailbox is read later.
    pub(crate) fn on_event_later(&mut self, text: &str) {
        if let Ok(EventFrame { seq, .. }) = serde_json::from_str(text) {
            self.newest_seq = self.newest_seq.max(seq);
        }
    }

    /// The mailbox has an entry with this `seq`.
    pub(crate) fn on_newest(&mut self, seq: u64) {
        self.newest_seq = self.newest_seq.max(seq);
    }

    /// Learns from an event that is sent which rides are live. A driver's later positions belong to the one that the user drives.
    fn update_ride(&mut self, seq: u64, subject: &str, body: &str) {
        if seq <= self.start_seq || !subject.starts_with("ride.") {
            return;
        }
        let Ok(change) = serde_json::from_str::<RideChange>(body) else { return };
        let driven = |rides: &CurrentRides| rides.driven.map(|ride| ride.ride_id);
        let before = driven(&self.rides);
        self.rides.apply(self.user, change);
        let ride = driven(&self.rides);
        if ride == before {
            return;
        }
        self.ride_device = self.slot.driver().accepted_on(change.match_id);
        if self.slot.driver().set_ride(ride) {
            self.context.sockets.add_moved(self.user);
        }
    }
}
