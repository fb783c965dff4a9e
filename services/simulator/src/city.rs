//! What all simulated people of a run share. Nothing here speaks to the platform but the sign-in.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::account::{Account, phone};
use crate::checker::{Checker, Party};
use crate::clock::WallClock;
use crate::config::Config;
use crate::http::HttpClient;
use crate::requests::RequestSchedule;
use crate::statistics::Statistics;

const CONCURRENT_SIGN_INS: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// New searches begin.
    Open,
    /// No new search begins; rides are finished.
    Closing,
    /// Everybody disconnects.
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

/// Places and times are measured: at the limit itself some points would need more.
const FASTEST_PART: f64 = 0.8;

#[derive(Debug)]
pub(crate) struct City {
    pub(crate) config: Config,
    /// One for each of the config's `urls`.
    pub(crate) users_clients: Vec<HttpClient>,
    pub(crate) rides_client: HttpClient,
    pub(crate) run_id: u64,
    pub(crate) wall_clock: WallClock,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Passengers who search or ride.
    pub(crate) busy: Gauge,
    /// Passengers in a ride.
    pub(crate) riding: Gauge,
    /// Passengers for whom the file held no more requests.
    pub(crate) without_request: Gauge,
    sign_ins: Semaphore,
    checker: Mutex<Checker>,
    statistics: Mutex<Statistics>,
    schedule: Mutex<RequestSchedule>,
    /// PINs that passengers have shared with their drivers, by ride.
    pins: Mutex<HashMap<String, String>>,
    accounts: Mutex<BTreeMap<String, Arc<Account>>>,
    /// What the platform believes that a vehicle can drive, in m/s, as bits; infinite while it has not said so.
    fastest_mps: AtomicU64,
}

impl City {
    /// # Errors
    /// A setting or a URL that cannot work.
    pub(crate) fn new(mut config: Config, phase: watch::Receiver<Phase>, start: Instant) -> Result<Self> {
        config.validate()?;
        let client = |url| HttpClient::new(&config.transport, url);
        let users_clients = config.urls.iter().map(|url| client(url)).collect::<Result<Vec<_>>>()?;
        let rides_client = match &config.rides_url {
            Some(url) => client(url)?,
            None => users_clients[0].clone(),
        };
        let wall_clock = WallClock::new(config.starts_at);
        let run_id = config.run_id.unwrap_or_else(|| wall_clock.now().timestamp_micros().unsigned_abs());
        let checker = Checker::new(config.outage);
        let schedule =
            RequestSchedule::new(config.requests.take(), config.centres.clone(), config.speed, config.seed, start);
        Ok(Self {
            config,
            users_clients,
            rides_client,
            run_id,
            wall_clock,
            phase,
            busy: Gauge::default(),
            riding: Gauge::default(),
            without_request: Gauge::default(),
            sign_ins: Semaphore::new(CONCURRENT_SIGN_INS),
            checker: Mutex::new(checker),
            statistics: Mutex::default(),
            schedule: Mutex::new(schedule),
            pins: Mutex::default(),
            accounts: Mutex::default(),
            fastest_mps: AtomicU64::new(f64::INFINITY.to_bits()),
        })
    }

    /// A welcome says how fast the platform believes that vehicles are.
    pub(crate) fn learn_fastest(&self, limit_mps: Option<f64>) {
        if let Some(limit_mps) = limit_mps.filter(|limit| limit.is_finite() && *limit > 0.0) {
            self.fastest_mps.store(limit_mps.to_bits(), Ordering::Relaxed);
            self.schedule().set_fastest(self.fastest_mps());
        }
    }

    /// The most that a vehicle drives, in metres a real second: what is faster is no track, and nobody pays for it.
    pub(crate) fn fastest_mps(&self) -> f64 {
        f64::from_bits(self.fastest_mps.load(Ordering::Relaxed)) * FASTEST_PART
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn checker(&self) -> MutexGuard<'_, Checker> {
        lock(&self.checker)
    }

    pub(crate) fn statistics(&self) -> MutexGuard<'_, Statistics> {
        lock(&self.statistics)
    }

    pub(crate) fn schedule(&self) -> MutexGuard<'_, RequestSchedule> {
        lock(&self.schedule)
    }

    /// The passenger shares the PIN of a ride with its driver.
    pub(crate) fn share_pin(&self, ride_id: &str, pin: &str) {
        lock(&self.pins).insert(ride_id.to_owned(), pin.to_owned());
    }

    /// `None` until the passenger has shared it.
    pub(crate) fn shared_pin(&self, ride_id: &str) -> Option<String> {
        lock(&self.pins).get(ride_id).cloned()
    }

    pub(crate) fn remove_pin(&self, ride_id: &str) {
        lock(&self.pins).remove(ride_id);
    }

    /// `None` if nobody has signed in as this user.
    pub(crate) fn account(&self, user_id: &str) -> Option<Arc<Account>> {
        lock(&self.accounts).get(user_id).cloned()
    }

    /// Somebody who is neither of the two.
    pub(crate) fn stranger(&self, driver_id: &str, passenger_id: &str) -> Option<Arc<Account>> {
        let accounts = lock(&self.accounts);
        let stranger = accounts.iter().find(|(id, _)| *id != driver_id && *id != passenger_id);
        stranger.map(|(_, account)| Arc::clone(account))
    }

    /// Signs in the person `index` of this run.
    ///
    /// # Errors
    /// See [`Account::sign_in`].
    pub(crate) async fn sign_in(&self, index: usize, party: Party) -> Result<Arc<Account>> {
        let _permit = self.sign_ins.acquire().await?;
        let mut clients = self.users_clients.clone();
        let first = index % clients.len();
        clients.rotate_left(first);
        let account = Arc::new(Account::sign_in(clients, phone(self.run_id, index)).await?);
        lock(&self.accounts).insert(account.user_id.clone(), Arc::clone(&account));
        self.checker().add_person(&account.user_id, party);
        Ok(account)
    }
}

/// The vehicle type of the driver `index`, and the one that the passenger `index` asks for, so that the two mixes match: cars,
/// and with 50 drivers or more some motorcycles and vans.
pub(crate) fn vehicle_type(index: usize, drivers: usize) -> &'static str {
    match index % 10 {
        8 if drivers >= 50 => "motorcycle",
        9 if drivers >= 50 => "van",
        _ => "car",
    }
}

/// A panic elsewhere leaves numbers that are still worth showing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::vehicle_type;

    #[test]
    fn small_cities_have_cars_only() {
        assert!((0..20).all(|index| vehicle_type(index, 20) == "car"));
        assert_eq!(vehicle_type(9, 100), "van");
    }
}
