//! What the pod has for one session: frames on their way to its client, and what it must know. Both wait here until the session takes
//! them. An empty inbox costs a hundred bytes, where channels would cost two kilobytes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use platform::Trace;

use super::transport::SessionEnd;

/// Frames that wait for a session; beyond, it reads its mailbox.
const FRAMES_MAX: usize = 64;
/// An inbox that is empty keeps room for so many.
const FRAMES_KEPT: usize = 4;

/// A frame as a pod wrote it after the event's commit.
#[derive(Debug, Clone)]
pub(crate) struct WrittenFrame {
    pub(crate) text: Arc<str>,
    /// The span that it follows from, if spans are recorded.
    pub(crate) trace: Option<Arc<Trace>>,
}

impl From<&str> for WrittenFrame {
    fn from(text: &str) -> Self {
        Self { text: text.into(), trace: None }
    }
}

/// What a session must know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Signal {
    /// The newest `seq` of the mailbox, as the poll of mailboxes found it, or a frame for which there was no room.
    pub(crate) last_seq: u64,
    /// The session is to end, and why.
    pub(crate) end: Option<SessionEnd>,
}

/// Only the task of the session takes from it.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    session: AtomicWaker,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<WrittenFrame>,
    signal: Signal,
    /// The newest entry of which pushes wait.
    pushed_seq: u64,
    /// The session has not taken the signal as it is now.
    is_new: bool,
    /// The session takes no more frames.
    is_closed: bool,
}

impl Waiting {
    fn set_newest(&mut self, seq: u64) {
        self.is_new |= std::mem::replace(&mut self.signal.last_seq, seq) != seq;
    }
}

impl Inbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting());
        self.session.wake();
    }

    /// The frame of the entry `seq`. If there is no room, the session reads its mailbox.
    pub(crate) fn put_frame(&self, seq: u64, frame: &WrittenFrame) {
        self.change(|waiting| {
            if waiting.is_closed || waiting.frames.len() >= FRAMES_MAX {
                waiting.set_newest(seq);
            } else {
                waiting.frames.push_back(frame.clone());
            }
        });
    }

    /// Pushes of the entry `seq`, whose frame comes next, wait until the client has it.
    pub(crate) fn expect_answer(&self, seq: u64) {
        let mut waiting = self.waiting();
        waiting.pushed_seq = waiting.pushed_seq.max(seq);
    }

    /// The newest entry of which pushes wait; 0 without any.
    pub(crate) fn pushed_seq(&self) -> u64 {
        self.waiting().pushed_seq
    }

    /// The session reads its mailbox, if it has not sent this entry yet.
    pub(crate) fn set_newest(&self, seq: u64) {
        self.change(|waiting| waiting.set_newest(seq));
    }

    /// The first reason to end is the one that the client sees.
    pub(crate) fn end(&self, end: SessionEnd) {
        self.change(|waiting| {
            waiting.is_new |= waiting.signal.end.replace(waiting.signal.end.unwrap_or(end)).is_none()
        });
    }

    /// Drops the frames that wait. The session takes no more.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting();
        waiting.is_closed = true;
        waiting.frames = VecDeque::new();
    }

    /// What the session knows, or is to know next.
    #[cfg(test)]
    pub(crate) fn known(&self) -> Signal {
        self.waiting().signal
    }

    /// The signal, once it has changed. A cancelled call loses nothing.
    pub(crate) async fn signal(&self) -> Signal {
        self.take(|waiting| std::mem::take(&mut waiting.is_new).then_some(waiting.signal)).await
    }

    /// The next frame. A cancelled call loses nothing.
    pub(crate) async fn frame(&self) -> WrittenFrame {
        self.take(|waiting| {
            let frame = waiting.frames.pop_front();
            if waiting.frames.is_empty() {
                waiting.frames.shrink_to(FRAMES_KEPT);
            }
            frame
        })
        .await
    }

    async fn take<T>(&self, mut taken: impl FnMut(&mut Waiting) -> Option<T>) -> T {
        poll_fn(|cx| {
            // First, so that what comes after the look below wakes the session.
            self.session.register(cx.waker());
            taken(&mut self.waiting()).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::transport::{SIGN_IN_ENDED, TOO_MANY};
    use super::*;

    fn frame(inbox: &Inbox) -> Option<String> {
        inbox.frame().now_or_never().map(|frame| frame.text.to_string())
    }

    #[test]
    fn a_frame_for_which_a_session_has_no_room_is_read_from_the_mailbox() {
        let inbox = Inbox::default();
        let count = FRAMES_MAX as u64;
        (1..=count).for_each(|seq| inbox.put_frame(seq, &seq.to_string().as_str().into()));
        assert_eq!(inbox.signal().now_or_never(), None);
        (count + 1..=count + 2).for_each(|seq| inbox.put_frame(seq, &seq.to_string().as_str().into()));
        assert_eq!(inbox.signal().now_or_never(), Some(Signal { last_seq: count + 2, end: None }));
        let received: Vec<String> = std::iter::from_fn(|| frame(&inbox)).collect();
        assert_eq!(received, (1..=count).map(|seq| seq.to_string()).collect::<Vec<_>>());
        inbox.put_frame(99, &"99".into());
        inbox.close();
        inbox.put_frame(100, &"100".into());
        assert_eq!((frame(&inbox), inbox.known().last_seq), (None, 100));
    }

    #[test]
    fn a_signal_is_taken_once_and_its_first_end_stays() {
        let inbox = Inbox::default();
        assert_eq!(inbox.signal().now_or_never(), None);
        inbox.set_newest(7);
        inbox.end(TOO_MANY);
        let expected = Signal { last_seq: 7, end: Some(TOO_MANY) };
        assert_eq!(inbox.signal().now_or_never(), Some(expected));
        inbox.set_newest(7);
        inbox.end(SIGN_IN_ENDED);
        assert_eq!((inbox.signal().now_or_never(), inbox.known()), (None, expected));
    }

    #[tokio::test]
    async fn a_session_that_waits_for_both_is_woken_by_either() {
        let inbox = Arc::new(Inbox::default());
        let waiting = inbox.clone();
        let session = tokio::spawn(async move {
            let mut taken = Vec::new();
            while taken.len() < 3 {
                tokio::select! {
                    biased;
                    signal = waiting.signal() => taken.push(signal.last_seq.to_string()),
                    frame = waiting.frame() => taken.push(frame.text.to_string()),
                }
            }
            taken
        });
        for n in 0..3 {
            tokio::task::yield_now().await;
            if n == 1 {
                inbox.set_newest(5)
            } else {
                inbox.put_frame(n, &format!("frame {n}").as_str().into())
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(session.await.unwrap(), ["frame 0", "5", "frame 2"]);
    }
}
