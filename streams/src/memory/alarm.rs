//! The moment at which something in the memory bus is next due.

use tokio::time::Instant;

/// When something is next due. Never too late; too early until [`set`](Self::set) corrects it.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    next: Option<Instant>,
    /// Whether `next` became earlier since this was last reset.
    pub(super) is_earlier: bool,
}

impl Alarm {
    /// Something is due then.
    pub(super) fn at(&mut self, due: Instant) {
        if self.next.is_none_or(|next| due < next) {
            self.next = Some(due);
            self.is_earlier = true;
        }
    }

    pub(super) fn set(&mut self, next: Option<Instant>) {
        self.next = next;
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|next| next <= now)
    }
}
