//! The city: what all simulated people share. It owns the counters, the checker, the deal of requests and the PINs that
//! passengers tell their drivers; it never speaks to the platform.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::account::{Account, phone};
use crate::checker::{Checks, Party};
use crate::clock::Wall;
use crate::config::Config;
use crate::http::Http;
use crate::requests::Deal;
use crate::statistics::Tally;

/// So many people sign in at a time.
const SIGN_INS: usize = 32;

/// What the people do at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// New requests are made.
    Open,
    /// None are; rides are finished.
    Closing,
    /// Everybody goes home.
    Over,
}

/// How many people are in some state.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    pub(crate) fn change(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Shared by all people of a run.
#[derive(Debug)]
pub(crate) struct City {
    pub(crate) config: Config,
    pub(crate) https: Vec<Http>,
    pub(crate) rides_http: Http,
    pub(crate) run_id: u64,
    pub(crate) wall: Wall,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Passengers who search or ride.
    pub(crate) busy: Gauge,
    /// Passengers in a ride.
    pub(crate) riding: Gauge,
    /// Drivers with a connection.
    pub(crate) online: Gauge,
    /// Passengers whom the deal had no request for.
    pub(crate) idle: Gauge,
    sign_ins: Semaphore,
    checks: Mutex<Checks>,
    tally: Mutex<Tally>,
    deal: Mutex<Deal>,
    pins: Mutex<HashMap<String, String>>,
    accounts: Mutex<BTreeMap<String, Arc<Account>>>,
}

impl City {
    /// # Errors
    /// A setting or a URL that cannot work.
    pub(crate) fn new(mut config: Config, phase: watch::Receiver<Phase>, start: Instant) -> Result<Self> {
        config.check()?;
        let https = config.urls.iter().map(|url| Http::over(&config.transport, url)).collect::<Result<Vec<_>>>()?;
        let rides_http = match &config.rides_url {
            Some(url) => Http::over(&config.transport, url)?,
            None => https[0].clone(),
        };
        let wall = Wall::new(config.starts_at);
        let run_id = config.run_id.unwrap_or_else(|| wall.now().timestamp_micros().unsigned_abs());
        let checks = Checks::patient(config.outage);
        let deal = Deal::new(config.requests.take(), config.centre, config.speed, config.seed, start);
        Ok(Self {
            config,
            https,
            rides_http,
            run_id,
            wall,
            phase,
            busy: Gauge::default(),
            riding: Gauge::default(),
            online: Gauge::default(),
            idle: Gauge::default(),
            sign_ins: Semaphore::new(SIGN_INS),
            checks: Mutex::new(checks),
            tally: Mutex::default(),
            deal: Mutex::new(deal),
            pins: Mutex::default(),
            accounts: Mutex::default(),
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn checks(&self) -> MutexGuard<'_, Checks> {
        lock(&self.checks)
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    pub(crate) fn deal(&self) -> MutexGuard<'_, Deal> {
        lock(&self.deal)
    }

    /// A passenger tells the driver the PIN; the driver looks when at the pickup.
    pub(crate) fn tell_pin(&self, ride_id: &str, pin: &str) {
        lock(&self.pins).insert(ride_id.to_owned(), pin.to_owned());
    }

    /// The PIN of a ride, if the passenger has told it.
    pub(crate) fn pin(&self, ride_id: &str) -> Option<String> {
        lock(&self.pins).get(ride_id).cloned()
    }

    /// The ride is over; its PIN is of no use.
    pub(crate) fn forget_pin(&self, ride_id: &str) {
        lock(&self.pins).remove(ride_id);
    }

    /// The account of a person who has signed in.
    pub(crate) fn account(&self, user_id: &str) -> Option<Arc<Account>> {
        lock(&self.accounts).get(user_id).cloned()
    }

    /// Somebody who is not one of these two, for questions about what is not theirs.
    pub(crate) fn stranger(&self, one: &str, other: &str) -> Option<Arc<Account>> {
        let accounts = lock(&self.accounts);
        accounts.iter().find(|(id, _)| *id != one && *id != other).map(|(_, account)| Arc::clone(account))
    }

    /// Signs a person in, who then takes part.
    ///
    /// # Errors
    /// See [`Account::sign_in`].
    pub(crate) async fn sign_in(&self, index: usize, party: Party) -> Result<Arc<Account>> {
        let _turn = self.sign_ins.acquire().await?;
        let mut https = self.https.clone();
        let first = index % https.len();
        https.rotate_left(first);
        let account = Arc::new(Account::sign_in(https, phone(self.run_id, index)).await?);
        lock(&self.accounts).insert(account.user_id.clone(), Arc::clone(&account));
        self.checks().joined(&account.user_id, party);
        Ok(account)
    }
}

/// A panic elsewhere leaves numbers that are still worth showing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
