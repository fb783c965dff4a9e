//! What a simulation makes go wrong on the memory bus and in the memory stores, by one seed.
//!
//! Only debug builds have it, and only who was given a [`Faults`] by a test meets any. It decides when something goes wrong
//! and where a process dies; what that means is done where it happens (`memory.rs`, `platform/src/store.rs`). It reads
//! nothing from outside, and all its choices come from one pair of dice, so that the same seed goes the same way.

use std::cell::Cell;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::bus::{BusError, Delivery};

/// Random numbers from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `below` − 1.
    pub fn below(&mut self, below: u64) -> u64 {
        self.roll() % below.max(1)
    }

    /// True that often in a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A duration from `from` to `to` milliseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from + 1))
    }
}

/// What can go wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A publish that the stream never saw.
    PublishRefused,
    /// A publish that the stream stored, and whose acknowledgement is lost.
    PublishUnanswered,
    /// A publish that is long on its way.
    PublishSlow,
    /// A message that is not handed out now but later, behind others.
    DeliveryLate,
    /// A message that is handed out and comes again before it can be acknowledged.
    DeliveryTwice,
    /// A batch in another order.
    DeliveryShuffled,
    /// A batch that is long on its way.
    DeliverySlow,
    /// An acknowledgement that the consumer never saw.
    AckLost,
    /// A core message that nobody gets.
    NoticeLost,
    /// A request that nobody gets.
    RequestLost,
    /// A request that was answered, and whose answer is lost.
    RequestUnanswered,
    /// No connection to the database.
    BeginRefused,
    /// A commit that changed nothing.
    CommitRefused,
    /// A commit that met another transaction.
    CommitConflict,
    /// A commit that was made, and whose answer is lost.
    CommitUnanswered,
    /// The relay's reads and marks fail.
    RelayRefused,
}

impl Fault {
    /// All.
    pub const ALL: [Self; 16] = [
        Self::PublishRefused,
        Self::PublishUnanswered,
        Self::PublishSlow,
        Self::DeliveryLate,
        Self::DeliveryTwice,
        Self::DeliveryShuffled,
        Self::DeliverySlow,
        Self::AckLost,
        Self::NoticeLost,
        Self::RequestLost,
        Self::RequestUnanswered,
        Self::BeginRefused,
        Self::CommitRefused,
        Self::CommitConflict,
        Self::CommitUnanswered,
        Self::RelayRefused,
    ];
}

/// Parts of the platform that a test switches off, to see that its checks tell. For the current thread only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sabotage {
    /// Repeats are taken for new messages.
    pub no_inbox: bool,
    /// match offers drivers and passengers that an offer holds.
    pub no_hold: bool,
    /// Readers let an older version of a ride replace a newer one.
    pub no_version_check: bool,
    /// The store takes a second live ride of a driver or passenger.
    pub no_unique_live_ride: bool,
}

thread_local! {
    static SABOTAGE: Cell<Sabotage> = const { Cell::new(Sabotage {
        no_inbox: false, no_hold: false, no_version_check: false, no_unique_live_ride: false,
    }) };
}

/// What is switched off in this thread.
pub fn sabotage() -> Sabotage {
    SABOTAGE.get()
}

/// Switches parts off in this thread, and all others on.
pub fn set_sabotage(sabotage: Sabotage) {
    SABOTAGE.set(sabotage);
}

/// A message that was handed out so often is close to being given up: nothing goes wrong until it is through.
const WORN: u64 = 3;
const CALM: Duration = Duration::from_secs(40);
/// PostgreSQL ends a transaction that stands still for so long (`idle_in_transaction_session_timeout`).
const IDLE_MAX: Duration = Duration::from_secs(15);
/// Of how many opportunities the rates speak.
const RATE_OF: u64 = 10_000;

#[derive(Debug, Default)]
struct Process {
    /// Points that it still passes before it dies.
    dies_in: Option<u64>,
    dead: bool,
    frozen_until: Option<Instant>,
    bus_away_until: Option<Instant>,
    store_away_until: Option<Instant>,
    died: Arc<Notify>,
}

/// A message that nobody brings to its end: each who takes it hangs, or dies.
#[derive(Debug)]
struct Doomed {
    consumer: String,
    /// The first that comes.
    sequence: Option<u64>,
    kills: bool,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    rates: [u64; Fault::ALL.len()],
    struck: [u64; Fault::ALL.len()],
    processes: Vec<Process>,
    calm_until: Option<Instant>,
    doomed: Vec<Doomed>,
}

/// The faults that one process meets; all processes of a simulation share the dice.
#[derive(Debug, Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    process: usize,
}

/// What a process does at a point.
enum Gate {
    Open,
    Until(Instant),
    Never,
}

impl Faults {
    /// None yet, for one process.
    pub fn new(seed: u64) -> Self {
        let none = [0; Fault::ALL.len()];
        let processes = vec![Process::default()];
        let dice = Dice::new(seed);
        let state = State { dice, rates: none, struck: none, processes, calm_until: None, doomed: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)), process: 0 }
    }

    /// For another process, or the next life of one.
    pub fn another(&self) -> Self {
        let mut state = self.state();
        state.processes.push(Process::default());
        Self { state: self.state.clone(), process: state.processes.len() - 1 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often something goes wrong from now on, in ten thousand opportunities.
    pub fn rate(&self, fault: Fault, rate: u64) {
        self.state().rates[fault as usize] = rate;
    }

    /// Nothing goes wrong any more, for anybody; who is dead stays dead.
    pub fn heal(&self) {
        let mut state = self.state();
        state.rates = [0; Fault::ALL.len()];
        state.doomed.clear();
        for process in &mut state.processes {
            *process = Process { dead: process.dead, died: process.died.clone(), ..Process::default() };
        }
    }

    /// How often each went wrong so far.
    pub fn struck(&self) -> Vec<(Fault, u64)> {
        let state = self.state();
        Fault::ALL.into_iter().map(|fault| (fault, state.struck[fault as usize])).collect()
    }

    /// Whether a message is so worn that nothing may go wrong now.
    pub fn is_calm(&self) -> bool {
        self.state().calm_until.is_some_and(|until| Instant::now() < until)
    }

    /// This process dies at its `points`-th point from now: the call there never returns, nor does any after it.
    pub fn die_in(&self, points: u64) {
        self.state().processes[self.process].dies_in = Some(points);
    }

    /// Whoever takes the next message of `consumer` hangs with it, as often as it is delivered, or dies if `kills`.
    pub fn doom(&self, consumer: &str, kills: bool) {
        let mut state = self.state();
        state.doomed.retain(|doomed| doomed.consumer != consumer);
        state.doomed.push(Doomed { consumer: consumer.to_owned(), sequence: None, kills });
    }

    /// Whether this process hangs with a message, or dies of it.
    fn is_lost_with(&self, delivery: &Delivery) -> bool {
        let mut state = self.state();
        let calm = state.calm_until.is_some_and(|until| Instant::now() < until);
        let (sequence, fresh) = (delivery.message.sequence, delivery.deliveries == 1);
        let Some(doomed) = state.doomed.iter_mut().find(|doomed| doomed.consumer == delivery.consumer) else {
            return false;
        };
        if doomed.sequence.is_none() && fresh {
            doomed.sequence = Some(sequence);
        }
        if doomed.sequence != Some(sequence) {
            return false;
        }
        if doomed.kills && !calm {
            let process = &mut state.processes[self.process];
            process.dead = true;
            process.died.notify_one();
        }
        true
    }

    /// This process is dead.
    pub fn die(&self) {
        self.state().processes[self.process].dead = true;
    }

    /// Told when this process dies at a point.
    pub fn died(&self) -> Arc<Notify> {
        self.state().processes[self.process].died.clone()
    }

    /// This process stands still until then, as by SIGSTOP.
    pub fn freeze_until(&self, until: Instant) {
        self.state().processes[self.process].frozen_until = Some(until);
    }

    /// This process does not reach the bus until then.
    pub fn bus_away_until(&self, until: Instant) {
        self.state().processes[self.process].bus_away_until = Some(until);
    }

    /// This process does not reach its database until then.
    pub fn store_away_until(&self, until: Instant) {
        self.state().processes[self.process].store_away_until = Some(until);
    }

    fn gate(&self, count: bool) -> Gate {
        let mut state = self.state();
        let now = Instant::now();
        let calm = state.calm_until.is_some_and(|until| now < until);
        let process = &mut state.processes[self.process];
        if count && !calm {
            match &mut process.dies_in {
                Some(0) if !process.dead => {
                    process.dead = true;
                    process.died.notify_one();
                }
                Some(points) => *points = points.saturating_sub(1),
                None => {}
            }
        }
        match process.frozen_until {
            _ if process.dead => Gate::Never,
            Some(until) if now < until => Gate::Until(until),
            _ => Gate::Open,
        }
    }

    /// A point at which a process may die or stand still; every effect on the outside has one before and one after it.
    pub async fn point(&self) {
        let mut gate = self.gate(true);
        loop {
            match gate {
                Gate::Open => return,
                Gate::Until(until) => sleep_until(until).await,
                Gate::Never => pending().await,
            }
            gate = self.gate(false);
        }
    }

    /// Whether this goes wrong here and now.
    pub fn strikes(&self, fault: Fault) -> bool {
        let mut state = self.state();
        let rate = state.rates[fault as usize];
        if rate == 0 || state.calm_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let strikes = state.dice.below(RATE_OF) < rate;
        state.struck[fault as usize] += u64::from(strikes);
        strikes
    }

    fn below(&self, below: u64) -> u64 {
        self.state().dice.below(below)
    }

    fn is_before(&self, until: impl FnOnce(&Process) -> Option<Instant>) -> bool {
        until(&self.state().processes[self.process]).is_some_and(|until| Instant::now() < until)
    }

    /// A point on the way to the bus.
    pub(crate) async fn to_bus(&self) -> Result<(), BusError> {
        self.point().await;
        if self.is_before(|p| p.bus_away_until) { Err(lost("the bus is away")) } else { Ok(()) }
    }

    /// A point on the way to the database; why it is not reached.
    pub async fn to_store(&self) -> Result<(), String> {
        self.point().await;
        if self.is_before(|p| p.store_away_until) { Err("simulated: it is away".to_owned()) } else { Ok(()) }
    }

    /// A point inside a transaction: `release` lets go of what it holds, should the process stand still for long.
    ///
    /// # Errors
    /// The database has ended the transaction meanwhile.
    pub async fn in_transaction(&self, release: impl FnOnce()) -> Result<(), String> {
        match self.gate(true) {
            Gate::Open => self.to_store_again(),
            Gate::Until(until) if until.duration_since(Instant::now()) < IDLE_MAX => {
                sleep_until(until).await;
                self.to_store_again()
            }
            Gate::Until(_) | Gate::Never => {
                release();
                self.point().await;
                Err("simulated: idle in transaction for too long".to_owned())
            }
        }
    }

    fn to_store_again(&self) -> Result<(), String> {
        if self.is_before(|p| p.store_away_until) { Err("simulated: it is away".to_owned()) } else { Ok(()) }
    }

    pub(crate) async fn publish<T>(&self, stored: impl Future<Output = Result<T, BusError>>) -> Result<T, BusError> {
        self.to_bus().await?;
        if self.strikes(Fault::PublishRefused) {
            return Err(lost("a publish"));
        }
        if self.strikes(Fault::PublishSlow) {
            sleep(Duration::from_millis(self.below(4_000))).await;
            self.point().await;
        }
        let published = stored.await;
        self.point().await;
        if published.is_ok() && self.strikes(Fault::PublishUnanswered) {
            return Err(lost("the acknowledgement of a publish"));
        }
        published
    }

    /// What of a batch reaches the process, and in which order.
    pub(crate) async fn hand_out(&self, mut batch: Vec<Delivery>) -> Vec<Delivery> {
        batch.retain(|delivery| !self.is_lost_with(delivery));
        if batch.iter().any(|delivery| delivery.deliveries >= WORN) {
            self.state().calm_until = Some(Instant::now() + CALM);
        }
        let mut kept = Vec::with_capacity(batch.len());
        for delivery in batch {
            let fresh = delivery.deliveries == 1;
            if fresh && self.strikes(Fault::DeliveryLate) {
                let most = if self.below(3) == 0 { 45_000 } else { 3_000 };
                delivery.redeliver_after(Duration::from_millis(20 + self.below(most)));
                continue;
            }
            if fresh && self.strikes(Fault::DeliveryTwice) {
                delivery.redeliver_after(Duration::from_millis(1 + self.below(1_000)));
            }
            kept.push(delivery);
        }
        if kept.len() > 1 && self.strikes(Fault::DeliveryShuffled) {
            for n in (1..kept.len()).rev() {
                kept.swap(n, usize::try_from(self.below(n as u64 + 1)).unwrap_or(0));
            }
        }
        if !kept.is_empty() && self.strikes(Fault::DeliverySlow) {
            sleep(Duration::from_millis(self.below(5_000))).await;
        }
        self.point().await;
        kept
    }

    /// Whether an acknowledgement arrives.
    pub(crate) async fn acknowledge(&self) -> Result<bool, BusError> {
        self.to_bus().await?;
        Ok(!self.strikes(Fault::AckLost))
    }

    pub(crate) async fn request<T>(&self, answer: impl Future<Output = Result<T, BusError>>) -> Result<T, BusError> {
        self.to_bus().await?;
        if self.strikes(Fault::RequestLost) {
            return Err(lost("a request"));
        }
        let answer = answer.await;
        self.point().await;
        if self.strikes(Fault::RequestUnanswered) {
            return Err(lost("the answer to a request"));
        }
        answer
    }
}

fn lost(what: &str) -> BusError {
    BusError::Unavailable(format!("simulated: {what} is lost"))
}
