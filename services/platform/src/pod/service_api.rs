//! The NATS service API (ADR-32 of nats-io/nats-architecture-and-design), for `nats micro ls`, `info` and `stats`: each service of a pod is
//! an instance. Written on the project's bus, and not with `async_nats::service`, so that both buses answer, and every endpoint has
//! the one loop of `responder`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use schemars::JsonSchema;
use serde::Serialize;
use streams::Service;
use streams::event::rfc3339;

use crate::api::{SchemaOf, Schemas};
use crate::responder::{self, Endpoint, Listed, Reply};
use crate::{CancellationToken, Platform};

/// The version of the program: a semantic version, as the API demands.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Requests of one subject in hand at most: each is answered from memory.
const ACCEPTED_MAX: usize = 16;
const WAIT: Duration = Duration::from_secs(2);

/// What the API asks for.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Ping,
    Info,
    Stats,
}

impl Verb {
    const ALL: [Self; 3] = [Self::Ping, Self::Info, Self::Stats];

    const fn name(self) -> &'static str {
        match self {
            Self::Ping => "PING",
            Self::Info => "INFO",
            Self::Stats => "STATS",
        }
    }
}

/// A service of this pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Instance {
    service: Service,
    pod: Arc<str>,
    started_at: DateTime<Utc>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{E}Response")]
struct Response<'a, E> {
    r#type: &'static str,
    name: &'a str,
    id: String,
    version: &'static str,
    metadata: BTreeMap<&'static str, &'a str>,
    #[serde(flatten)]
    extra: E,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ServicePing")]
struct Ping {}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ServiceInfo")]
struct Info {
    description: &'static str,
    endpoints: Vec<EndpointInfo>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ServiceStats")]
struct Stats {
    #[serde(serialize_with = "rfc3339::serialize")]
    #[schemars(with = "DateTime<Utc>")]
    started: DateTime<Utc>,
    endpoints: Vec<EndpointStats>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ServiceEndpointInfo")]
struct EndpointInfo {
    name: String,
    subject: String,
    /// Empty if every subscriber gets each request.
    queue_group: String,
    metadata: BTreeMap<&'static str, String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ServiceEndpointStats")]
struct EndpointStats {
    #[serde(flatten)]
    info: EndpointInfo,
    num_requests: u64,
    num_errors: u64,
    /// Empty if there was none.
    last_error: String,
    /// Nanoseconds.
    processing_time: u64,
    /// Nanoseconds.
    average_processing_time: u64,
}

impl From<Listed> for EndpointInfo {
    fn from(Listed { name, subject, queue_group, .. }: Listed) -> Self {
        Self { name, subject, queue_group: queue_group.unwrap_or_default(), metadata: BTreeMap::new() }
    }
}

impl From<Listed> for EndpointStats {
    fn from(listed: Listed) -> Self {
        let statistics = listed.statistics.clone();
        let processing_time = u64::try_from(statistics.processing_time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            info: listed.into(),
            num_requests: statistics.requests,
            num_errors: statistics.errors,
            last_error: statistics.last_error.unwrap_or_default(),
            processing_time,
            average_processing_time: processing_time.checked_div(statistics.requests).unwrap_or(0),
        }
    }
}

/// The schemas of the answers to `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`.
pub fn replies() -> [(&'static str, SchemaOf); 3] {
    [
        ("$SRV.PING", Schemas::written::<Response<'_, Ping>>),
        ("$SRV.INFO", Schemas::written::<Response<'_, Info>>),
        ("$SRV.STATS", Schemas::written::<Response<'_, Stats>>),
    ]
}

const fn description(service: Service) -> &'static str {
    match service {
        Service::Users => "sign-in, profiles and sockets",
        Service::Match => "the driver pool and offers",
        Service::Rides => "rides, fares and the ledger",
        Service::Location => "positions and the distance of rides",
    }
}

impl Instance {
    /// Unique among all instances: a pod runs a service once.
    fn id(&self) -> String {
        format!("{}-{}", self.pod, self.service.name())
    }

    /// All services, those of this name, this instance.
    fn subjects(&self, verb: Verb) -> [String; 3] {
        let (verb, name) = (verb.name(), self.service.name());
        [format!("$SRV.{verb}"), format!("$SRV.{verb}.{name}"), format!("$SRV.{verb}.{name}.{}", self.id())]
    }

    fn respond(&self, verb: Verb, endpoints: Vec<Listed>) -> Reply {
        match verb {
            Verb::Ping => self.reply("io.nats.micro.v1.ping_response", Ping {}),
            Verb::Info => {
                let endpoints = endpoints.into_iter().map(EndpointInfo::from).collect();
                let info = Info { description: description(self.service), endpoints };
                self.reply("io.nats.micro.v1.info_response", info)
            }
            Verb::Stats => {
                let endpoints = endpoints.into_iter().map(EndpointStats::from).collect();
                let stats = Stats { started: self.started_at, endpoints };
                self.reply("io.nats.micro.v1.stats_response", stats)
            }
        }
    }

    fn reply(&self, kind: &'static str, extra: impl Serialize) -> Reply {
        let (name, id, metadata) = (self.service.name(), self.id(), BTreeMap::from([("pod", &*self.pod)]));
        Reply::json(&Response { r#type: kind, name, id, version: VERSION, metadata, extra })
    }
}

/// Answers for each of `services` until `stop`.
pub(super) async fn run(platform: &Platform, services: &[Service], stop: &CancellationToken) {
    let started_at = platform.world.now();
    let instance = |service: &Service| Instance { service: *service, pod: platform.pod.clone(), started_at };
    let instances: Vec<Instance> = services.iter().map(instance).collect();
    let mut loops = Vec::new();
    for instance in &instances {
        for verb in Verb::ALL {
            for subject in instance.subjects(verb) {
                loops.push(answer(platform.clone(), instance.clone(), verb, subject, stop.clone()));
            }
        }
    }
    join_all(loops).await;
}

/// Any body is a request. Without a queue group: every instance answers.
async fn answer(platform: Platform, instance: Instance, verb: Verb, subject: String, stop: CancellationToken) {
    let endpoint = Endpoint {
        service: None,
        name: verb.name().to_owned(),
        subject,
        queue_group: None,
        accepted_max: ACCEPTED_MAX,
        wait: WAIT,
        health_part: None,
    };
    let endpoints = platform.endpoints.clone();
    responder::serve(platform, endpoint, stop, move |_| {
        let reply = instance.respond(verb, endpoints.of(instance.service));
        async { reply }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::responder::Statistics;

    #[test]
    fn the_bodies_are_those_of_the_service_api() {
        let started_at = "2026-06-01T12:00:00.5Z".parse().unwrap();
        let instance = Instance { service: Service::Rides, pod: "pod-1".into(), started_at };
        assert_eq!(
            instance.subjects(Verb::Stats),
            ["$SRV.STATS", "$SRV.STATS.rides", "$SRV.STATS.rides.pod-1-rides"].map(str::to_owned)
        );
        let listed = |name: &str, queue_group: Option<&str>, statistics| Listed {
            name: name.to_owned(),
            subject: format!("s.{name}"),
            queue_group: queue_group.map(str::to_owned),
            statistics,
        };
        let statistics = Statistics {
            requests: 4,
            errors: 1,
            last_error: Some("no".to_owned()),
            processing_time: Duration::from_micros(10),
        };
        let endpoints = vec![listed("a", Some("rides"), statistics), listed("b", None, Statistics::default())];
        let body = |verb| -> Value {
            let Reply { body, .. } = instance.respond(verb, endpoints.clone());
            serde_json::from_slice(&body.unwrap()).unwrap()
        };
        let common = |kind: &str, more: Value| {
            let mut all = json!({
                "type": format!("io.nats.micro.v1.{kind}_response"), "name": "rides", "id": "pod-1-rides",
                "version": VERSION, "metadata": {"pod": "pod-1"},
            });
            all.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
            all
        };
        assert_eq!(body(Verb::Ping), common("ping", json!({})));
        let info = |name: &str, queue_group: &str| json!({"name": name, "subject": format!("s.{name}"), "queue_group": queue_group, "metadata": {}});
        let info_body =
            json!({"description": "rides, fares and the ledger", "endpoints": [info("a", "rides"), info("b", "")]});
        assert_eq!(body(Verb::Info), common("info", info_body));
        let stats = |info: Value, requests: u64, errors: u64, last: &str, time: u64, average: u64| {
            let mut all = info;
            let more = json!({
                "num_requests": requests, "num_errors": errors, "last_error": last,
                "processing_time": time, "average_processing_time": average,
            });
            all.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
            all
        };
        let endpoints = [stats(info("a", "rides"), 4, 1, "no", 10_000, 2_500), stats(info("b", ""), 0, 0, "", 0, 0)];
        let stats_body = json!({"started": "2026-06-01T12:00:00.500000Z", "endpoints": endpoints});
        assert_eq!(body(Verb::Stats), common("stats", stats_body));
        let semantic: Vec<&str> = VERSION.split('.').collect();
        assert!(semantic.len() == 3 && semantic.iter().all(|part| part.parse::<u32>().is_ok()), "{VERSION}");
    }
}
