//! Frames on their way to the client: a bounded queue before a sink that may be slow.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use platform::spans::{Span, SpanKind};
use platform::{Platform, Trace, kill_point};
use serde_json::value::RawValue;
use streams::{Service, Subject};
use tokio::time::{Instant, timeout};

use super::frame;
use super::transport::{Incoming, Outgoing, SessionEnd, TOO_SLOW};
use crate::commands::command::Refusal;

/// When this many frames wait for a slow reader, the session reads no more commands from it.
const QUEUE_MAX: usize = 64;
/// The wait for the last frames to leave, and then for the client to close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The frame of an event.
pub(crate) struct EventText {
    pub(crate) text: String,
    pub(crate) sending: Option<Box<Sending>>,
}

/// An event on its way to the client, of which is recorded when it has left.
pub(crate) struct Sending {
    pub(crate) subject: String,
    /// When the event occurred.
    pub(crate) occurred_at: Option<DateTime<Utc>>,
    /// When the session had it.
    pub(crate) began_at: DateTime<Utc>,
    /// The span that it follows from, if spans are recorded.
    pub(crate) trace: Option<Arc<Trace>>,
}

impl Sending {
    fn has_left(&self, platform: &Platform) {
        let now = platform.world.now();
        let span = self.trace.as_ref().map(|before| before.next(&platform.world));
        if self.subject == Subject::MatchFound.as_str()
            && let Some(occurred_at) = self.occurred_at
        {
            let seconds = (now - occurred_at).as_seconds_f64().max(0.0);
            platform.metrics.offer_to_phone.observe(&[], seconds, span.as_ref().map(|span| (span, now)));
        }
        if let Some(trace) = span {
            let times = (self.began_at, now);
            let name = format!("send {}", self.subject);
            let span = Span::new(Service::Users.name(), name, SpanKind::Producer, &trace, times);
            platform.spans.record(span.with("network.protocol.name", "websocket"));
        }
    }
}

pub(crate) struct Outbound<'a, K> {
    platform: &'a Platform,
    sink: K,
    queue: VecDeque<(Outgoing, Option<Box<Sending>>)>,
    /// Given to the sink and not flushed.
    sending: Vec<Sending>,
    /// A frame was given to the sink and not flushed.
    unflushed: bool,
    /// When the sink last took a frame, while more wait; otherwise `None`.
    pub(crate) blocked_since: Option<Instant>,
}

impl<'a, K: Sink<Outgoing> + Unpin + Send> Outbound<'a, K> {
    pub(crate) fn new(platform: &'a Platform, sink: K) -> Self {
        let (queue, sending) = (VecDeque::new(), Vec::new());
        Self { platform, sink, queue, sending, unflushed: false, blocked_since: None }
    }

    pub(crate) fn push_event(&mut self, EventText { text, sending }: EventText) {
        self.push_with(Outgoing::Text(text), sending);
    }

    pub(crate) fn push_text(&mut self, text: String) {
        self.push(Outgoing::Text(text));
    }

    pub(crate) fn push_error(&mut self, id: Option<&RawValue>, refusal: &Refusal) {
        self.push_text(frame::error(id, refusal));
    }

    pub(crate) fn push(&mut self, frame: Outgoing) {
        self.push_with(frame, None);
    }

    fn push_with(&mut self, frame: Outgoing, sending: Option<Box<Sending>>) {
        self.queue.push_back((frame, sending));
        self.blocked_since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.queue.len() < QUEUE_MAX
    }

    /// Whether [`drain`](Self::drain) has something to do.
    pub(crate) fn is_busy(&self) -> bool {
        self.unflushed || !self.queue.is_empty()
    }

    /// Sends the whole queue. Returns false if the sink is broken. A cancelled call has sent the frames that it took.
    pub(crate) async fn drain(&mut self) -> bool {
        poll_fn(|cx| self.poll_drain(cx)).await.is_ok()
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), K::Error>> {
        while !self.queue.is_empty() {
            ready!(self.sink.poll_ready_unpin(cx))?;
            if let Some((frame, sending)) = self.queue.pop_front() {
                if matches!(frame, Outgoing::Text(_)) {
                    self.platform.metrics.frames.with_label_values(&["out"]).inc();
                }
                self.sink.start_send_unpin(frame)?;
                self.sending.extend(sending.map(|sending| *sending));
                self.unflushed = true;
                self.blocked_since = Some(Instant::now());
            }
        }
        ready!(self.sink.poll_flush_unpin(cx))?;
        if self.unflushed {
            kill_point::reached("session.after_write");
        }
        self.unflushed = false;
        self.blocked_since = None;
        for sending in std::mem::take(&mut self.sending) {
            sending.has_left(self.platform);
        }
        // An idle socket does not hold the memory of its last burst.
        self.queue.shrink_to(4);
        Poll::Ready(Ok(()))
    }

    /// Sends what waits and the close frame, then waits for the client to close first. If the server closed a TCP
    /// connection with unread input, the kernel would reset it, and the client would lose the close frame.
    pub(crate) async fn close<S: Stream<Item = Incoming> + Unpin + Send>(&mut self, incoming: &mut S, end: SessionEnd) {
        let SessionEnd::Close(code, reason) = end else {
            let _ = timeout(CLOSE_WAIT, self.sink.close()).await;
            return;
        };
        if end == TOO_SLOW {
            // Only the error at the end of the queue is sent. The client did not read the events before it in time, and
            // receives them on its next connection.
            let error = self.queue.pop_back();
            self.queue.clear();
            self.queue.extend(error);
        }
        self.push(Outgoing::Close(code, reason));
        if timeout(CLOSE_WAIT, self.drain()).await == Ok(true) {
            let closed = async { while incoming.next().await.is_some() {} };
            let _ = timeout(CLOSE_WAIT, closed).await;
        }
    }
}
