//! Searches that begin or end while others are being stored wait here, and are stored together after them ([`super::search`]). So under load a
//! transaction serves many of them, and one that comes alone is stored at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use platform::Trace;
use streams::UserId;
use tokio::sync::{mpsc, oneshot};

use super::ack::SearchAck;
use crate::trip::Trip;

/// Commands that wait. One that finds so many is done alone.
const WAITING_MAX: usize = 4_096;

/// What a passenger wants.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) user: UserId,
    /// `None`: no search any more.
    pub(crate) trip: Option<Trip>,
    /// Of the command.
    pub(crate) trace: Trace,
}

#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) wish: Wish,
    /// Dropped without a value, if it must be done alone.
    pub(crate) to: oneshot::Sender<SearchAck>,
}

#[derive(Debug)]
pub(crate) struct JointSearches {
    to: mpsc::Sender<Waiting>,
    /// For the one task that stores.
    from: Mutex<Option<mpsc::Receiver<Waiting>>>,
    is_served: AtomicBool,
}

impl Default for JointSearches {
    fn default() -> Self {
        let (to, from) = mpsc::channel(WAITING_MAX);
        Self { to, from: Mutex::new(Some(from)), is_served: AtomicBool::new(false) }
    }
}

impl JointSearches {
    /// The ack of a wish that was done together with others. `None`: nothing is known to be done, and it must be done alone; an effect that was
    /// committed all the same makes that a repeat.
    pub(crate) async fn done(&self, wish: Wish) -> Option<SearchAck> {
        if !self.is_served.load(Ordering::Acquire) {
            return None;
        }
        let (to, done) = oneshot::channel();
        self.to.try_send(Waiting { wish, to }).ok()?;
        done.await.ok()
    }

    /// For the one task that stores, which serves until it drops it.
    pub(crate) fn serve(&self) -> Option<mpsc::Receiver<Waiting>> {
        let from = self.from.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.is_served.store(from.is_some(), Ordering::Release);
        from
    }
}
