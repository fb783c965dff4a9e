//! How many positions of free drivers this pod has under way: published, and not read yet by the readers of `location.update`. Who finds no
//! room waits in a queue, and sends its newest position when it is its turn. So under any load the positions that are read are fresh, and
//! the stream does not fill.
//!
//! The readers say how far they are (`location.progress`). What they do not say in [`UNDER_WAY_MAX`] counts as read. A reader that has not
//! said a word while more than a whole room was counted so is away: until it is back, positions go out at a low rate, [`ROOM_MIN`] a second, so
//! that they do not push those of rides out of the stream. Positions of rides need no room.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use streams::position_progress::PositionProgress;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

/// The consumers that read `location.update`.
const READERS: [&str; 2] = ["location_update_location", "location_update_match"];
/// The most positions under way: a fifth of a second's for readers of 10,000 a second.
const ROOM_MAX: usize = 2_000;
/// The least, when many pods share slow readers.
const ROOM_MIN: usize = 100;
/// Positions that are read at this age make the room smaller, and at this age larger again.
const TOO_OLD: Duration = Duration::from_millis(800);
const FRESH: Duration = Duration::from_millis(300);
/// How often the room changes.
const CHANGE_INTERVAL: Duration = Duration::from_millis(500);
/// A position is under way for no longer than this.
const UNDER_WAY_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Window {
    free: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Free and taken.
    room: usize,
    /// Of the taken, what does not become free again, because the room became smaller.
    surplus: usize,
    changed_at: Instant,
    /// Published positions by their sequence on the stream, and when they were stored.
    under_way: VecDeque<(u64, Instant)>,
    /// The newest sequence that each reader has read.
    read: BTreeMap<&'static str, u64>,
    /// How many positions counted as read for want of a word, since the last word of each reader.
    unread: [usize; READERS.len()],
}

/// Room for positions that are to be published. Dropped, it is free again.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    window: &'a Window,
    permit: SemaphorePermit<'a>,
}

impl Room<'_> {
    /// The stream has stored one of the positions under this sequence.
    pub(crate) fn published(&mut self, sequence: u64, now: Instant) {
        if let Some(permit) = self.permit.split(1) {
            permit.forget();
            self.window.state().under_way.push_back((sequence, now));
        }
    }
}

impl Window {
    pub(crate) fn new(now: Instant) -> Self {
        let (under_way, read) = (VecDeque::new(), BTreeMap::new());
        let state = State { room: ROOM_MAX, surplus: 0, changed_at: now, under_way, read, unread: [0; READERS.len()] };
        Self { free: Semaphore::new(ROOM_MAX), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for `count` positions, and nobody waits for it.
    pub(crate) fn has_room(&self, count: usize, now: Instant) -> bool {
        if self.free.available_permits() < count {
            self.release(now);
        }
        self.free.available_permits() >= count
    }

    /// Waits for room for `count` positions, [`ROOM_MIN`] at most, after all who wait already. `None` if the window is closed, which it
    /// never is.
    pub(crate) async fn enter(&self, count: usize) -> Option<Room<'_>> {
        let count = u32::try_from(count.min(ROOM_MIN)).ok()?;
        let mut acquire = pin!(self.free.acquire_many(count));
        loop {
            match timeout(UNDER_WAY_MAX / 4, acquire.as_mut()).await {
                Ok(permit) => return Some(Room { window: self, permit: permit.ok()? }),
                // Without readers nobody else looks.
                Err(_) => self.release(Instant::now()),
            }
        }
    }

    /// A reader has read up to a sequence.
    pub(crate) fn on_progress(&self, progress: &PositionProgress, now: Instant) {
        let Some(reader) = READERS.into_iter().find(|reader| *reader == progress.consumer) else { return };
        {
            let mut state = self.state();
            state.read.insert(reader, progress.sequence);
            let words = READERS.iter().zip(&mut state.unread);
            words.filter(|(of, _)| **of == reader).for_each(|(_, unread)| *unread = 0);
            self.adapt(&mut state, Duration::from_millis(progress.age_ms), now);
        }
        self.release(now);
    }

    fn adapt(&self, state: &mut State, age: Duration, now: Instant) {
        if now < state.changed_at + CHANGE_INTERVAL {
            return;
        }
        let room = match age {
            age if age > TOO_OLD => (state.room / 2).max(ROOM_MIN),
            age if age < FRESH => (state.room + state.room / 4).min(ROOM_MAX),
            _ => state.room,
        };
        self.set_room(state, room, now);
    }

    fn set_room(&self, state: &mut State, room: usize, now: Instant) {
        if room != state.room {
            state.changed_at = now;
        }
        let (added, removed) = (room.saturating_sub(state.room), state.room.saturating_sub(room));
        let from_surplus = added.min(state.surplus);
        state.room = room;
        state.surplus = state.surplus - from_surplus + removed - self.free.forget_permits(removed);
        self.free.add_permits(added - from_surplus);
    }

    /// Frees the room of what every reader has read, and of what is under way for too long.
    fn release(&self, now: Instant) {
        let mut state = self.state();
        let read = READERS.iter().map(|reader| state.read.get(reader).copied().unwrap_or(0)).min().unwrap_or(0);
        let mut released = 0;
        while let Some((sequence, stored_at)) = state.under_way.front()
            && (*sequence <= read || now >= *stored_at + UNDER_WAY_MAX)
        {
            if *sequence > read {
                state.unread.iter_mut().for_each(|unread| *unread += 1);
            }
            state.under_way.pop_front();
            released += 1;
        }
        if state.unread.iter().any(|unread| *unread > ROOM_MAX) {
            self.set_room(&mut state, ROOM_MIN, now);
        }
        let surplus = released.min(state.surplus);
        state.surplus -= surplus;
        self.free.add_permits(released - surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(reader: &str, sequence: u64, age_ms: u64) -> PositionProgress {
        PositionProgress { consumer: reader.to_owned(), sequence, age_ms }
    }

    fn try_enter(window: &Window, count: u32) -> Option<Room<'_>> {
        window.has_room(count as usize, Instant::now());
        Some(Room { window, permit: window.free.try_acquire_many(count).ok()? })
    }

    fn fill(window: &Window, sequences: std::ops::Range<u64>) {
        for sequence in sequences {
            try_enter(window, 1).expect("room").published(sequence, Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_free_again_when_both_readers_have_read_it() {
        let window = Window::new(Instant::now());
        fill(&window, 1..ROOM_MAX as u64 + 1);
        assert!(try_enter(&window, 1).is_none());
        window.on_progress(&progress(READERS[0], 500, 0), Instant::now());
        assert!(try_enter(&window, 1).is_none(), "the other reader has not read it");
        window.on_progress(&progress(READERS[1], 10, 0), Instant::now());
        assert!(try_enter(&window, 11).is_none());
        let room = try_enter(&window, 10).expect("ten were read");
        drop(room);
        window.on_progress(&progress("somebody", 2_000, 0), Instant::now());
        assert!(try_enter(&window, 11).is_none(), "no reader of positions");
        // A stream that was created again counts from 1.
        window.on_progress(&progress(READERS[0], 3, 0), Instant::now());
        assert!(try_enter(&window, 10).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_first_and_without_readers_a_second_later() {
        let window = Window::new(Instant::now());
        fill(&window, 1..ROOM_MAX as u64 + 1);
        let began = Instant::now();
        let mut waiting = pin!(window.enter(1));
        assert!(timeout(UNDER_WAY_MAX / 2, waiting.as_mut()).await.is_err());
        assert!(waiting.await.is_some());
        assert!(began.elapsed() <= UNDER_WAY_MAX + UNDER_WAY_MAX / 4);
        // What is not published is free at once.
        assert!(try_enter(&window, ROOM_MAX as u32).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_reader_is_away_positions_go_out_at_a_low_rate() {
        let window = Window::new(Instant::now());
        let mut sequence = 0;
        // As many as there is room for, each second.
        let mut in_a_second = async |readers: &[&str]| {
            let first = sequence;
            while let Some(mut room) = try_enter(&window, 1) {
                sequence += 1;
                room.published(sequence, Instant::now());
            }
            tokio::time::advance(UNDER_WAY_MAX / 2).await;
            readers.iter().for_each(|reader| window.on_progress(&progress(reader, sequence, 100), Instant::now()));
            tokio::time::advance(UNDER_WAY_MAX / 2).await;
            sequence - first
        };
        assert_eq!(in_a_second(&READERS).await, ROOM_MAX as u64);
        // One of the two is away, as both are while PostgreSQL is.
        assert_eq!(in_a_second(&READERS[..1]).await, ROOM_MAX as u64);
        assert_eq!(in_a_second(&[]).await, ROOM_MAX as u64);
        for _ in 0..60 {
            assert!(in_a_second(&[]).await <= ROOM_MIN as u64);
        }
        for _ in 0..60 {
            in_a_second(&READERS).await;
        }
        assert_eq!(in_a_second(&READERS).await, ROOM_MAX as u64, "it is back");
    }

    #[tokio::test(start_paused = true)]
    async fn the_room_shrinks_while_positions_are_old_and_grows_again() {
        let window = Window::new(Instant::now());
        fill(&window, 1..ROOM_MAX as u64 + 1);
        let report = |age_ms| {
            let now = Instant::now() + CHANGE_INTERVAL;
            window.on_progress(&progress(READERS[0], 0, age_ms), now);
            let mut state = window.state();
            state.changed_at = Instant::now();
            state.room
        };
        assert_eq!([500, 801, 801].map(&report), [2_000, 1_000, 500]);
        assert_eq!([801; 9].map(&report).last(), Some(&ROOM_MIN));
        for reader in READERS {
            window.on_progress(&progress(reader, 2_000, 500), Instant::now());
        }
        assert!(try_enter(&window, ROOM_MIN as u32).is_some(), "what was taken beyond the room is gone");
        assert!(try_enter(&window, ROOM_MIN as u32 + 1).is_none());
        assert_eq!([100, 100].map(&report), [125, 156]);
        assert_eq!([100; 20].map(&report).last(), Some(&ROOM_MAX));
        assert!(try_enter(&window, ROOM_MAX as u32).is_some());
    }
}
