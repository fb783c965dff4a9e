//! The endpoints that a process serves now, and how each is doing, for the service API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use streams::Service;

use super::Endpoint;

/// All endpoints of a process, by service and name.
#[derive(Debug, Default)]
pub struct Endpoints(Mutex<BTreeMap<(&'static str, String), Entry>>);

#[derive(Debug)]
struct Entry {
    subject: String,
    queue_group: Option<String>,
    statistics: Arc<Recorder>,
    /// How many loops serve it now. An endpoint that comes back goes on counting.
    serving: usize,
}

/// An endpoint that is served now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub subject: String,
    pub queue_group: Option<String>,
    pub statistics: Statistics,
}

/// What became of the requests of an endpoint since the process began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// That were answered, or given up.
    pub requests: u64,
    pub errors: u64,
    pub last_error: Option<String>,
    /// Of all requests together.
    pub processing_time: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<Statistics>);

/// The endpoint is listed until this is dropped.
pub(super) struct Registered<'a> {
    endpoints: &'a Endpoints,
    /// `None`: it is not listed.
    key: Option<(&'static str, String)>,
    statistics: Arc<Recorder>,
}

impl Endpoints {
    pub(super) fn register(&self, endpoint: &Endpoint) -> Registered<'_> {
        let Some(service) = endpoint.service else {
            return Registered { endpoints: self, key: None, statistics: Arc::default() };
        };
        let key = (service.name(), endpoint.name.clone());
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(key.clone()).or_insert_with(|| Entry {
            subject: endpoint.subject.clone(),
            queue_group: endpoint.queue_group.clone(),
            statistics: Arc::default(),
            serving: 0,
        });
        entry.serving += 1;
        Registered { endpoints: self, key: Some(key), statistics: entry.statistics.clone() }
    }

    /// Those of one service, in the order of their names.
    pub fn of(&self, service: Service) -> Vec<Listed> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let served = entries.iter().filter(|((of, _), entry)| *of == service.name() && entry.serving > 0);
        let listed = served.map(|((_, name), entry)| Listed {
            name: name.clone(),
            subject: entry.subject.clone(),
            queue_group: entry.queue_group.clone(),
            statistics: entry.statistics.0.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        });
        listed.collect()
    }
}

impl Recorder {
    pub(super) fn record(&self, took: Duration, error: Option<String>) {
        let mut statistics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statistics.requests += 1;
        statistics.processing_time += took;
        if error.is_some() {
            statistics.errors += 1;
            statistics.last_error = error;
        }
    }
}

impl Registered<'_> {
    pub(super) fn statistics(&self) -> Arc<Recorder> {
        self.statistics.clone()
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let Some(key) = &self.key else { return };
        let mut entries = self.endpoints.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(key) {
            entry.serving -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_listed_while_it_is_served_and_goes_on_counting() {
        let endpoints = Endpoints::default();
        let endpoint = |name: &str| Endpoint {
            service: Some(Service::Rides),
            name: name.to_owned(),
            subject: format!("s.{name}"),
            queue_group: Some("rides".to_owned()),
            accepted_max: 1,
            wait: Duration::from_secs(1),
            health_part: None,
        };
        let names = || endpoints.of(Service::Rides).into_iter().map(|listed| listed.name).collect::<Vec<_>>();
        let _b = endpoints.register(&endpoint("b"));
        let a = endpoints.register(&endpoint("a"));
        assert_eq!((names(), endpoints.of(Service::Users)), (vec!["a".to_owned(), "b".to_owned()], Vec::new()));
        a.statistics().record(Duration::from_millis(2), None);
        a.statistics().record(Duration::from_millis(4), Some("no".to_owned()));
        drop(a);
        assert_eq!(names(), ["b"]);
        let _a = endpoints.register(&endpoint("a"));
        let processing_time = Duration::from_millis(6);
        let expected = Statistics { requests: 2, errors: 1, last_error: Some("no".to_owned()), processing_time };
        assert_eq!(endpoints.of(Service::Rides)[0].statistics, expected);
    }
}
