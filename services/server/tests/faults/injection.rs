//! Injecting faults and healing them: what each fault does to processes, servers and lines, what is observed meanwhile, and how
//! long recovery takes.

use std::time::Duration;

use simulator::Observation;
use sqlx::{Connection, PgConnection};
use streams::topology::Topology;
use tokio::time::{Instant, sleep, timeout};

use crate::duplicates;
use crate::nemesis::{Dealt, Fault, Nemesis, Then, Window};
use crate::proxy::Line;
use crate::rig::{Place, Rig, TICK};
use crate::servers::Postgres;

/// From the end of the last fault until everything is ready and clients are served.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// From SIGTERM until a process has ended.
const END_LIMIT: Duration = Duration::from_secs(45);
/// Once a server has been away for so long, no process may report that it is ready.
const NOT_READY_AFTER: Duration = Duration::from_secs(7);

/// What the rig has done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Up,
    Down,
    Frozen,
    /// SIGTERM was sent then.
    Ending(Instant),
}

/// A fault that has not ended.
pub(crate) struct Active {
    fault: Fault,
    place: usize,
    since: Instant,
    until: Instant,
}

impl Rig {
    /// Injects faults until the time is over, and heals them all.
    pub(crate) async fn inject_faults(&mut self) {
        let mut nemesis = Nemesis::new(self.settings.seed);
        while !self.has_acks(20) {
            self.tick().await;
            sleep(TICK).await;
        }
        let end = Instant::now() + self.settings.faults_for;
        while Instant::now() < end {
            let dealt = self.settings.only.unwrap_or_else(|| nemesis.deal());
            self.begin(dealt, &mut nemesis).await;
            let pause = Instant::now() + dealt.pause;
            while Instant::now() < pause {
                self.tick().await;
                sleep(TICK).await;
            }
            let soon = self.active.iter().all(|active| active.until < Instant::now() + Duration::from_secs(10));
            if dealt.then == Then::Recover && soon {
                self.recover().await;
            }
        }
        for active in &mut self.active {
            active.until = Instant::now();
        }
        self.recover().await;
        self.say("healed");
    }

    fn has_acks(&mut self, count: u64) -> bool {
        self.drain();
        self.acks >= count
    }

    pub(crate) fn drain(&mut self) {
        for observation in self.observer.try_iter() {
            self.acks += u64::from(matches!(observation, Observation::Acked { .. }));
            self.observations.push(observation);
        }
    }

    /// Waits until every fault has ended, every process is ready, and clients are served.
    async fn recover(&mut self) {
        let limit = Instant::now() + RECOVERY_LIMIT + Duration::from_secs(10);
        while !self.active.is_empty() || self.healed_at.is_some() {
            if Instant::now() >= limit {
                let mut why = Vec::new();
                for place in &self.places {
                    if let Err(error) = place.process.ready().await {
                        why.push(format!("{}: {error}", place.process.name));
                    }
                }
                self.wrong.push(format!("no recovery in {RECOVERY_LIMIT:?}: {why:?}"));
                self.healed_at = None;
                return;
            }
            self.tick().await;
            sleep(TICK).await;
        }
    }

    /// A process without a fault, from place `n` on.
    fn up(&self, n: usize) -> Option<usize> {
        let count = self.places.len();
        (0..count).map(|step| (n + step) % count).find(|place| self.places[*place].state == State::Up)
    }

    /// The place of the match process that holds the lease, if it has no fault.
    fn leader(&self) -> Option<usize> {
        let (_, holder) = self.leases.last()?;
        let leads = |place: &Place| place.state == State::Up && place.process.pod() == *holder;
        self.places.iter().position(leads)
    }

    fn server_is_free(&self) -> bool {
        !self.active.iter().any(|active| matches!(active.fault, Fault::Nats(_) | Fault::NatsFreeze(_) | Fault::Wipe(_)))
    }

    /// The nodes whose store a wipe deletes: one, or every other time all.
    fn wiped(&self, place: usize) -> Vec<usize> {
        if place < self.nats.len() { vec![place] } else { (0..self.nats.len()).collect() }
    }

    async fn begin(&mut self, dealt: Dealt, nemesis: &mut Nemesis) {
        let now = Instant::now();
        let (fault, place) = match dealt.fault {
            fault @ (Fault::Kill(n) | Fault::Freeze(n) | Fault::Restart(n)) => match self.up(n) {
                Some(place) => (fault, place),
                None => return,
            },
            Fault::FreezeLead => match self.leader() {
                Some(place) => (Fault::Freeze(place), place),
                None => return,
            },
            fault @ Fault::RouteLine(n, _) => match self.nats.len() {
                1 => return,
                count => (fault, n % count),
            },
            fault @ (Fault::NatsLine(n, _) | Fault::DatabaseLine(n, _)) => (fault, n % self.places.len()),
            fault @ Fault::ClientLine(n, _) => (fault, n % self.fronts.len()),
            Fault::NatsLeader => {
                let leader = duplicates::leader(&self.nats.urls(), "RIDE_STREAM").await;
                let place = leader.and_then(|name| self.nats.named(&name)).unwrap_or(0);
                (Fault::Nats(place), place)
            }
            fault @ (Fault::Nats(n) | Fault::NatsFreeze(n)) => (fault, n % self.nats.len()),
            fault @ Fault::Wipe(n) => (fault, n % (2 * self.nats.len())),
            fault => (fault, 0),
        };
        if matches!(fault, Fault::Nats(_) | Fault::NatsFreeze(_) | Fault::Wipe(_)) && !self.server_is_free() {
            return;
        }
        let kind = format!("{fault:?}");
        let kind = kind.split('(').next().unwrap_or_default().to_owned();
        let whom = match fault {
            Fault::ClientLine(..)
            | Fault::Kill(_)
            | Fault::Freeze(_)
            | Fault::Restart(_)
            | Fault::NatsLine(..)
            | Fault::DatabaseLine(..) => self.places[place].process.name.clone(),
            _ => place.to_string(),
        };
        self.say(&format!("{fault:?} → {whom} for {:.1} s", dealt.lasts.as_secs_f64()));
        *self.kinds.entry(kind.clone()).or_default() += 1;
        self.healed_at = None;
        match fault {
            Fault::Kill(_) => {
                self.places[place].process.kill();
                self.places[place].state = State::Down;
            }
            Fault::Freeze(_) => {
                self.places[place].process.signal("STOP");
                self.places[place].state = State::Frozen;
            }
            Fault::Restart(_) => {
                self.places[place].process.signal("TERM");
                self.places[place].state = State::Ending(now);
            }
            Fault::RollingRestart => self.roll().await,
            Fault::NatsLine(_, line) => self.places[place].nats.iter().for_each(|proxy| proxy.set(line)),
            Fault::DatabaseLine(_, line) => self.places[place].database.set(line),
            Fault::ClientLine(_, line) => self.fronts[place].set(line),
            Fault::RouteLine(_, line) => self.nats.set_route(place, line),
            Fault::Postgres => self.postgres.crash().await,
            Fault::Nats(_) => self.nats.kill(place),
            Fault::NatsFreeze(_) => self.nats.signal(place, "STOP"),
            Fault::Wipe(_) => self.nats.wipe(&self.wiped(place)),
            Fault::Full(stream) => {
                if !duplicates::fill(&self.nats.urls(), &self.bus, stream).await {
                    self.say("  not filled: the server does not answer");
                    *self.kinds.entry(kind).or_default() -= 1;
                    return;
                }
            }
            Fault::Duplicates(window) => {
                let urls = self.nats.urls();
                let publish = async {
                    if window == Window::Expired {
                        duplicates::expire_duplicate_windows(&urls).await;
                    }
                    self.duplicates.publish(&self.bus, &mut nemesis.rng).await
                };
                let stored = timeout(Duration::from_secs(15), publish).await;
                self.say(&format!("  stored again: {stored:?}"));
            }
            Fault::NatsLeader | Fault::FreezeLead => {}
        }
        self.active.push(Active { fault, place, since: now, until: now + dealt.lasts });
    }

    async fn end(&mut self, active: Active) {
        let place = active.place;
        if matches!(active.fault, Fault::Postgres) && active.since.elapsed() >= NOT_READY_AFTER {
            self.must_not_be_ready("PostgreSQL", active.since.elapsed()).await;
        }
        if self.nats.len() == 1 && matches!(active.fault, Fault::Nats(_)) && active.since.elapsed() >= NOT_READY_AFTER {
            self.must_not_be_ready("NATS", active.since.elapsed()).await;
        }
        match active.fault {
            Fault::Kill(_) => {
                self.places[place].process.start(None);
                self.places[place].state = State::Up;
            }
            Fault::Freeze(_) => {
                self.places[place].process.signal("CONT");
                self.places[place].state = State::Up;
            }
            Fault::NatsLine(..) => self.places[place].nats.iter().for_each(|proxy| proxy.set(Line::Open)),
            Fault::DatabaseLine(..) => self.places[place].database.set(Line::Open),
            Fault::ClientLine(..) => self.fronts[place].set(Line::Open),
            Fault::RouteLine(..) => self.nats.set_route(place, Line::Open),
            Fault::Postgres => self.postgres.start().await,
            Fault::Nats(_) => self.nats.start_all(&[place]).await,
            Fault::Wipe(_) => self.nats.start_all(&self.wiped(place)).await,
            Fault::NatsFreeze(_) => self.nats.signal(place, "CONT"),
            Fault::Full(_) => {
                if let Err(error) = self.bus.apply(&Topology::rideshare()).await {
                    self.say(&format!("  the stream's bound is not restored yet: {error}"));
                }
            }
            Fault::Restart(_)
            | Fault::RollingRestart
            | Fault::Duplicates(_)
            | Fault::NatsLeader
            | Fault::FreezeLead => {}
        }
        self.healed_at = Some((Instant::now(), self.acks));
    }

    async fn must_not_be_ready(&mut self, what: &str, away: Duration) {
        for n in 0..self.places.len() {
            if self.places[n].state == State::Up && self.places[n].process.ready().await.is_ok() {
                let name = &self.places[n].process.name;
                self.wrong.push(format!("{name} reports that it is ready, {away:?} after {what} went away"));
            }
        }
    }

    /// All processes, one after the other, each ready before the next one ends.
    async fn roll(&mut self) {
        for n in 0..self.places.len() {
            if self.places[n].state != State::Up {
                continue;
            }
            self.places[n].process.signal("TERM");
            self.places[n].state = State::Ending(Instant::now());
            let until = Instant::now() + END_LIMIT + Duration::from_secs(20);
            while self.places[n].state != State::Up || self.places[n].process.ready().await.is_err() {
                if Instant::now() >= until {
                    // Another fault is active meanwhile: the process is started, and nothing more can be expected here.
                    break;
                }
                self.tick().await;
                sleep(TICK).await;
            }
        }
    }

    /// Restarts processes that have ended, heals faults whose time is over, and records leases and recoveries.
    pub(crate) async fn tick(&mut self) {
        self.drain();
        let now = Instant::now();
        for n in 0..self.places.len() {
            let Place { process, state, .. } = &mut self.places[n];
            let died = process.died();
            match (*state, died) {
                (State::Up, Some(how)) => {
                    // A process may end itself rather than go on with a part of its tasks; its supervisor starts a new one.
                    let log = process.tail(5);
                    process.start(None);
                    let name = process.name.clone();
                    self.say(&format!("{name} ended by itself, {how}; started again:\n{log}"));
                    *self.kinds.entry("(ended by itself)".to_owned()).or_default() += 1;
                }
                (State::Ending(since), Some(_)) => {
                    process.start(None);
                    *state = State::Up;
                    let (name, took) = (process.name.clone(), now - since);
                    self.say(&format!("  {name} ended in {:.1} s", took.as_secs_f64()));
                    self.healed_at = Some((now, self.acks));
                }
                (State::Ending(since), None) if now - since > END_LIMIT => {
                    let text = format!("{} did not end in {END_LIMIT:?}:\n{}", process.name, process.tail(20));
                    process.kill();
                    process.start(None);
                    *state = State::Up;
                    self.wrong.push(text);
                }
                _ => {}
            }
        }
        while let Some(place) = self.active.iter().position(|active| active.until <= now) {
            let active = self.active.remove(place);
            self.end(active).await;
        }
        self.record_lease().await;
        self.record_recovery().await;
    }

    async fn record_lease(&mut self) {
        if self.lease_reader.is_none() {
            let url = Postgres::url(self.postgres.port());
            self.lease_reader =
                timeout(Duration::from_secs(1), PgConnection::connect(&url)).await.ok().and_then(Result::ok);
        }
        let Some(connection) = &mut self.lease_reader else { return };
        let look = sqlx::query_as::<_, (i64, String)>(
            "select epoch, holder from matching.lease where holder <> '' order by epoch desc limit 1",
        );
        match timeout(Duration::from_secs(1), look.fetch_optional(connection)).await {
            Ok(Ok(Some(lease))) if self.leases.last() != Some(&lease) => self.leases.push(lease),
            Ok(Ok(_)) => {}
            _ => self.lease_reader = None,
        }
    }

    async fn record_recovery(&mut self) {
        let Some((at, acks)) = self.healed_at else { return };
        let all_up = self.places.iter().all(|place| place.state == State::Up);
        if !self.active.is_empty() || !all_up || self.acks == acks {
            return;
        }
        for place in &self.places {
            if place.process.ready().await.is_err() {
                return;
            }
        }
        self.recoveries.push(at.elapsed());
        self.healed_at = None;
    }
}
