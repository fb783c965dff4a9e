//! A build with the feature `simulation`: faults occur by one seed, on the memory bus and in the memory stores.
//!
//! [`Faults`] decides when a call fails and when a process dies; the memory bus and `platform`'s store ask it and act on the
//! answer. All choices come from one pair of dice and nothing is read from outside, so the same seed gives the same run.

use std::cell::Cell;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::cost::{Costs, Processor, RowLocks, Work};
use super::fault::{Fault, Sabotage};
use crate::bus::message::{BusError, Delivered};

/// Random numbers from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
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

    /// True in `percent` of a hundred rolls.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A duration from `from` to `to` milliseconds, both included.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from + 1))
    }
}

thread_local! {
    static SABOTAGE: Cell<Sabotage> = const { Cell::new(Sabotage::NONE) };
}

/// What is switched off in this thread.
pub fn sabotage() -> Sabotage {
    SABOTAGE.get()
}

/// Switches these parts off in this thread, and all others on.
pub fn set_sabotage(sabotage: Sabotage) {
    SABOTAGE.set(sabotage);
}

/// From this delivery on a message is close to being given up.
const CLOSE_TO_GIVEN_UP: u64 = 3;
/// For so long no fault occurs after a message came close to being given up: a message that is only unlucky gets through.
const CALM: Duration = Duration::from_secs(40);
/// PostgreSQL ends a transaction that is idle for longer (`idle_in_transaction_session_timeout`).
const IDLE_IN_TRANSACTION_LIMIT: Duration = Duration::from_secs(15);
/// Rates are per this many opportunities.
const OPPORTUNITIES: u64 = 10_000;

#[derive(Debug, Default)]
struct Process {
    /// Crash points that it still passes before it dies.
    dies_after: Option<u64>,
    dead: bool,
    frozen_until: Option<Instant>,
    bus_unreachable_until: Option<Instant>,
    store_unreachable_until: Option<Instant>,
    died: Arc<Notify>,
    processor: Processor,
}

/// What happens to every process that receives a doomed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doom {
    Hang,
    Die,
}

/// A message that no process finishes.
#[derive(Debug)]
struct DoomedMessage {
    consumer: String,
    /// That of the next first delivery; `None` until it comes.
    sequence: Option<u64>,
    doom: Doom,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    rates: [u64; Fault::ALL.len()],
    counts: [u64; Fault::ALL.len()],
    processes: Vec<Process>,
    calm_until: Option<Instant>,
    doomed: Vec<DoomedMessage>,
    costs: Costs,
    rows: RowLocks,
    /// Of a sabotaged platform: what all transactions pass, one at a time.
    lock_of_all: Processor,
}

impl State {
    fn is_calm(&self) -> bool {
        self.calm_until.is_some_and(|until| Instant::now() < until)
    }
}

/// The faults that one process meets; none by default. All processes of a simulation share the dice.
#[derive(Debug, Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    process: usize,
}

impl Default for Faults {
    fn default() -> Self {
        Self::new(0)
    }
}

/// What a process does at a crash point.
enum Gate {
    Open,
    FrozenUntil(Instant),
    Dead,
}

impl Faults {
    /// For the first process; nothing goes wrong yet.
    pub fn new(seed: u64) -> Self {
        let none = [0; Fault::ALL.len()];
        let processes = vec![Process::default()];
        let dice = Dice::new(seed);
        let state = State {
            dice,
            rates: none,
            counts: none,
            processes,
            calm_until: None,
            doomed: Vec::new(),
            costs: Costs::default(),
            rows: RowLocks::default(),
            lock_of_all: Processor::default(),
        };
        Self { state: Arc::new(Mutex::new(state)), process: 0 }
    }

    /// For another process, or the next start of one.
    pub fn for_another_process(&self) -> Self {
        let mut state = self.state();
        state.processes.push(Process::default());
        Self { state: self.state.clone(), process: state.processes.len() - 1 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the fault occurs from now on, in ten thousand opportunities.
    pub fn set_rate(&self, fault: Fault, rate: u64) {
        self.state().rates[fault as usize] = rate;
    }

    /// Ends all faults of all processes; a dead process stays dead.
    pub fn heal(&self) {
        let mut state = self.state();
        state.rates = [0; Fault::ALL.len()];
        state.doomed.clear();
        for process in &mut state.processes {
            *process = Process { dead: process.dead, died: process.died.clone(), ..Process::default() };
        }
    }

    /// How often each fault occurred so far.
    pub fn counts(&self) -> Vec<(Fault, u64)> {
        let state = self.state();
        Fault::ALL.into_iter().map(|fault| (fault, state.counts[fault as usize])).collect()
    }

    /// Whether a message is so close to being given up that no fault occurs now.
    pub fn is_calm(&self) -> bool {
        self.state().is_calm()
    }

    /// This process dies at its next crash point but `points`: the call there never returns, nor does any later one.
    pub fn die_after(&self, points: u64) {
        self.state().processes[self.process].dies_after = Some(points);
    }

    /// Every process that receives the next message of `consumer` hangs with it, at each delivery.
    pub fn hang_on_next(&self, consumer: &str) {
        self.doom_next(consumer, Doom::Hang);
    }

    /// Every process that receives the next message of `consumer` dies of it, at each delivery.
    pub fn die_on_next(&self, consumer: &str) {
        self.doom_next(consumer, Doom::Die);
    }

    fn doom_next(&self, consumer: &str, doom: Doom) {
        let mut state = self.state();
        state.doomed.retain(|doomed| doomed.consumer != consumer);
        state.doomed.push(DoomedMessage { consumer: consumer.to_owned(), sequence: None, doom });
    }

    /// Whether this process hangs with the message or dies of it; if it dies, it is dead afterwards.
    fn succumbs_to<H>(&self, delivery: &Delivered<H>) -> bool {
        let mut state = self.state();
        let calm = state.is_calm();
        let (sequence, first) = (delivery.message.sequence, delivery.deliveries == 1);
        let Some(doomed) = state.doomed.iter_mut().find(|doomed| doomed.consumer == delivery.consumer) else {
            return false;
        };
        if doomed.sequence.is_none() && first {
            doomed.sequence = Some(sequence);
        }
        if doomed.sequence != Some(sequence) {
            return false;
        }
        if doomed.doom == Doom::Die && !calm {
            let process = &mut state.processes[self.process];
            process.dead = true;
            process.died.notify_one();
        }
        true
    }

    /// This process is dead from now on.
    pub fn die(&self) {
        self.state().processes[self.process].dead = true;
    }

    /// Notified when this process dies at a crash point or of a message.
    pub fn died(&self) -> Arc<Notify> {
        self.state().processes[self.process].died.clone()
    }

    /// This process stands still until then, as after SIGSTOP.
    pub fn freeze_until(&self, until: Instant) {
        self.state().processes[self.process].frozen_until = Some(until);
    }

    /// This process does not reach the bus until then.
    pub fn bus_unreachable_until(&self, until: Instant) {
        self.state().processes[self.process].bus_unreachable_until = Some(until);
    }

    /// This process does not reach its database until then.
    pub fn store_unreachable_until(&self, until: Instant) {
        self.state().processes[self.process].store_unreachable_until = Some(until);
    }

    /// From now on the work of all processes takes this, and what each has done is counted from here.
    pub fn set_costs(&self, costs: Costs) {
        let mut state = self.state();
        state.costs = costs;
        state.rows = RowLocks::default();
        state.lock_of_all = Processor::default();
        state.processes.iter_mut().for_each(|process| process.processor = Processor::default());
    }

    /// What this process has done since [`set_costs`](Self::set_costs).
    pub fn work(&self) -> Work {
        self.state().processes[self.process].processor.work
    }

    /// A visit to the database.
    async fn transaction(&self) {
        let wait = {
            let mut state = self.state();
            let (cost, now) = (state.costs.transaction, Instant::now());
            if cost.is_zero() {
                return;
            }
            let turn = if sabotage().one_transaction_at_a_time { state.lock_of_all.occupy(cost, now) } else { None };
            let processor = &mut state.processes[self.process].processor;
            processor.work.transactions += 1;
            turn.max(processor.occupy(cost, now))
        };
        if let Some(until) = wait {
            sleep_until(until).await;
        }
    }

    /// A transaction that wrote rows of these entities is committed, and would have waited for those who wrote them at the same time.
    pub async fn locked_rows(&self, entities: impl Iterator<Item = Uuid> + Clone + Send) {
        let (ends, now) = {
            let mut state = self.state();
            let (cost, now) = (state.costs.transaction, Instant::now());
            if cost.is_zero() {
                return;
            }
            let ends = state.rows.lock(entities, cost, now);
            state.processes[self.process].processor.work.waited_for_rows += ends - now;
            (ends, now)
        };
        if ends > now {
            sleep_until(ends).await;
        }
    }

    /// This process sends or receives messages; returns until when that takes it. A client's frame is one, too.
    pub fn add_hops(&self, count: usize) -> Option<Instant> {
        let mut state = self.state();
        let cost = state.costs.hop * u32::try_from(count).unwrap_or(u32::MAX);
        if cost.is_zero() {
            return None;
        }
        let processor = &mut state.processes[self.process].processor;
        processor.work.hops += count as u64;
        processor.occupy(cost, Instant::now())
    }

    fn add_hops_of_all(&self, count: usize) {
        let processes = self.state().processes.len();
        (0..processes).filter(|process| *process != self.process).for_each(|process| {
            Self { state: self.state.clone(), process }.add_hops(count);
        });
    }

    /// This process sends or receives messages.
    pub(crate) async fn hops(&self, count: usize) {
        if let Some(until) = self.add_hops(count) {
            sleep_until(until).await;
        }
    }

    /// Waits until this process has done what it has to do already.
    pub(crate) async fn not_busy(&self) {
        let until = self.state().processes[self.process].processor.busy_until(Instant::now());
        if let Some(until) = until {
            sleep_until(until).await;
        }
    }

    /// Counts a crash point, and says what the process does there.
    fn enter_crash_point(&self) -> Gate {
        let mut state = self.state();
        let calm = state.is_calm();
        let process = &mut state.processes[self.process];
        if !calm {
            match &mut process.dies_after {
                Some(0) if !process.dead => {
                    process.dead = true;
                    process.died.notify_one();
                }
                Some(points) => *points = points.saturating_sub(1),
                None => {}
            }
        }
        process.gate()
    }

    /// A place where the process may die or stand still; every effect on the outside has one before and one after it.
    pub async fn crash_point(&self) {
        let mut gate = self.enter_crash_point();
        loop {
            match gate {
                Gate::Open => return,
                Gate::FrozenUntil(until) => sleep_until(until).await,
                Gate::Dead => pending().await,
            }
            gate = self.state().processes[self.process].gate();
        }
    }

    /// Rolls the dice: whether the fault occurs here and now.
    pub fn occurs(&self, fault: Fault) -> bool {
        let mut state = self.state();
        let rate = state.rates[fault as usize];
        if rate == 0 || state.is_calm() {
            return false;
        }
        let occurs = state.dice.below(OPPORTUNITIES) < rate;
        state.counts[fault as usize] += u64::from(occurs);
        occurs
    }

    fn below(&self, below: u64) -> u64 {
        self.state().dice.below(below)
    }

    fn is_before(&self, until: impl FnOnce(&Process) -> Option<Instant>) -> bool {
        until(&self.state().processes[self.process]).is_some_and(|until| Instant::now() < until)
    }

    /// A crash point on the way to the bus.
    pub(crate) async fn reach_bus(&self) -> Result<(), BusError> {
        self.crash_point().await;
        if self.is_before(|p| p.bus_unreachable_until) { Err(lost("the bus is away")) } else { Ok(()) }
    }

    /// A crash point on the way to the database.
    ///
    /// # Errors
    /// Why the database is not reached.
    pub async fn reach_store(&self) -> Result<(), String> {
        self.crash_point().await;
        self.transaction().await;
        self.store_reachable()
    }

    /// A crash point inside a transaction. If the process is dead, or stands still for longer than the database allows,
    /// `release` drops the transaction as the database would.
    ///
    /// # Errors
    /// The database is not reached, or it has ended the transaction meanwhile.
    pub async fn in_transaction(&self, release: impl FnOnce()) -> Result<(), String> {
        match self.enter_crash_point() {
            Gate::Open => self.store_reachable(),
            Gate::FrozenUntil(until) if until.duration_since(Instant::now()) < IDLE_IN_TRANSACTION_LIMIT => {
                sleep_until(until).await;
                self.store_reachable()
            }
            Gate::FrozenUntil(_) | Gate::Dead => {
                release();
                self.crash_point().await;
                Err("simulated: idle in transaction for too long".to_owned())
            }
        }
    }

    fn store_reachable(&self) -> Result<(), String> {
        if self.is_before(|p| p.store_unreachable_until) { Err("simulated: it is away".to_owned()) } else { Ok(()) }
    }

    pub(crate) async fn publish<T>(&self, publish: impl Future<Output = Result<T, BusError>>) -> Result<T, BusError> {
        self.reach_bus().await?;
        if self.occurs(Fault::PublishRefused) {
            return Err(lost("a publish"));
        }
        if self.occurs(Fault::PublishSlow) {
            sleep(Duration::from_millis(self.below(4_000))).await;
            self.crash_point().await;
        }
        let published = publish.await;
        self.crash_point().await;
        if published.is_ok() && self.occurs(Fault::PublishUnanswered) {
            return Err(lost("the acknowledgement of a publish"));
        }
        published
    }

    /// Which messages of a batch reach the process, and in which order. `redeliver_after` has the bus redeliver a message
    /// after a delay, whatever the process does with it until then.
    pub(crate) async fn deliver<H>(
        &self,
        mut batch: Vec<Delivered<H>>,
        redeliver_after: impl Fn(&Delivered<H>, Duration),
    ) -> Vec<Delivered<H>> {
        batch.retain(|delivery| !self.succumbs_to(delivery));
        if batch.iter().any(|delivery| delivery.deliveries >= CLOSE_TO_GIVEN_UP) {
            self.state().calm_until = Some(Instant::now() + CALM);
        }
        let mut arrived = Vec::with_capacity(batch.len());
        for delivery in batch {
            let first = delivery.deliveries == 1;
            if first && self.occurs(Fault::DeliveryLate) {
                let most = if self.below(3) == 0 { 45_000 } else { 3_000 };
                redeliver_after(&delivery, Duration::from_millis(20 + self.below(most)));
                continue;
            }
            if first && self.occurs(Fault::DeliveryTwice) {
                redeliver_after(&delivery, Duration::from_millis(1 + self.below(1_000)));
            }
            arrived.push(delivery);
        }
        if sabotage().all_positions_to_all {
            self.add_hops_of_all(arrived.len());
        }
        self.hops(arrived.len()).await;
        if arrived.len() > 1 && self.occurs(Fault::DeliveryShuffled) {
            for n in (1..arrived.len()).rev() {
                arrived.swap(n, usize::try_from(self.below(n as u64 + 1)).unwrap_or(0));
            }
        }
        if !arrived.is_empty() && self.occurs(Fault::DeliverySlow) {
            sleep(Duration::from_millis(self.below(5_000))).await;
        }
        self.crash_point().await;
        arrived
    }

    /// Whether an acknowledgement arrives.
    pub(crate) async fn acknowledge(&self) -> Result<bool, BusError> {
        self.reach_bus().await?;
        Ok(!self.occurs(Fault::AckLost))
    }

    pub(crate) async fn request<T>(&self, request: impl Future<Output = Result<T, BusError>>) -> Result<T, BusError> {
        self.reach_bus().await?;
        self.hops(1).await;
        if self.occurs(Fault::RequestLost) {
            return Err(lost("a request"));
        }
        let reply = request.await;
        self.crash_point().await;
        if self.occurs(Fault::RequestUnanswered) {
            return Err(lost("the answer to a request"));
        }
        reply
    }
}

impl Process {
    fn gate(&self) -> Gate {
        match self.frozen_until {
            _ if self.dead => Gate::Dead,
            Some(until) if Instant::now() < until => Gate::FrozenUntil(until),
            _ => Gate::Open,
        }
    }
}

fn lost(what: &str) -> BusError {
    BusError::Unavailable(format!("simulated: {what} is lost"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    #[test]
    fn no_fault_occurs_by_default() {
        let faults = Faults::default();
        assert!(Fault::ALL.into_iter().all(|fault| !faults.occurs(fault)));
        assert_eq!(sabotage(), Sabotage::NONE);
    }

    #[test]
    fn same_seed_gives_the_same_faults() {
        let run = |seed| {
            let faults = Faults::new(seed);
            faults.set_rate(Fault::AckLost, OPPORTUNITIES / 2);
            (0..64).map(|_| faults.occurs(Fault::AckLost)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[tokio::test(start_paused = true)]
    async fn process_dies_after_its_crash_points_and_another_one_lives() {
        let faults = Faults::new(1);
        let other = faults.for_another_process();
        faults.die_after(2);
        let hour = Duration::from_secs(3_600);
        for passes in [true, true, false, false] {
            assert_eq!(timeout(hour, faults.crash_point()).await.is_ok(), passes);
        }
        faults.died().notified().await;
        assert!(timeout(hour, other.crash_point()).await.is_ok());
    }
}
