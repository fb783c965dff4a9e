//! Traces: one ride is one trace from the phone's command to the receipt's frame, over all services, in both shapes. A collector of the
//! test's own decodes what the exporter sends.

use std::collections::{BTreeMap, BTreeSet};

use platform::World;
use serde_json::{Value, json};

use crate::harness::client::{Person, Socket, WAIT, http};
use crate::harness::collector::{Collector, Received};
use crate::harness::ride::{at, online, trip};
use crate::harness::running::{Running, Shape};
use crate::harness::until;

const PASSENGER: (&str, &str) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
const DRIVER: (&str, &str) = ("af7651916cd43dd8448eb211c80319c0", "b7ad6b7169203331");

fn traceparent((trace, span): (&str, &str), flags: &str) -> String {
    format!("00-{trace}-{span}-{flags}")
}

/// A ride from the search to the receipts. The passenger's phone has a trace of its own, and so has the driver's.
async fn ride(driver: &mut Socket, passenger: &mut Socket, flags: &str) -> Value {
    online(driver, 40.751).await;
    passenger.ack_in(&traceparent(PASSENGER, flags), "finder.update", trip()).await;
    let found = driver.event("match.found").await["data"].clone();
    passenger.event("match.found").await;
    let offer = json!({"match_id": found["match_id"]});
    driver.ack_in(&traceparent(DRIVER, flags), "match.accept", offer).await;
    let ride_id = driver.event("ride.pickup").await["data"]["ride_id"].clone();
    let pin = passenger.event("ride.pickup").await["data"]["pin"].clone();
    driver.ack("ride.start", json!({"ride_id": ride_id, "pin": pin})).await;
    passenger.event("ride.started").await;
    driver.event("ride.started").await;
    let now = World::real().now();
    let place = |n: u32| at(40.75 + 0.001 * f64::from(n), -73.98 + 0.001 * f64::from(n));
    let points: Vec<Value> = (1..=10).map(|n| json!({"location": place(n), "recorded_at": now.to_rfc3339()})).collect();
    driver.ack("location.update", json!({"points": points})).await;
    driver.ack("ride.arrive", json!({"ride_id": ride_id})).await;
    for socket in [driver, passenger] {
        socket.event("ride.arrived").await;
        socket.event("ride.completed").await;
    }
    ride_id
}

fn spans_of(collector: &Collector, trace: &str) -> Vec<Received> {
    collector.spans().into_iter().filter(|span| span.trace_id() == trace).collect()
}

/// Runs a ride on `running`, and returns its trace as a tree.
async fn tree_of_a_ride(running: Running, collector: &Collector) -> String {
    let (driver, passenger) = (Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await);
    let (mut d, mut p) = (driver.connect(None).await, passenger.connect(None).await);
    let ride_id = ride(&mut d, &mut p, "01").await;
    let captured = async || {
        let all = spans_of(collector, PASSENGER.0);
        all.iter().any(|s| s.span.name.starts_with("process payment_capture"))
    };
    until("the payment is captured, and its span is here", captured).await;
    drop((d, p));
    running.stop().await;
    let secrets = [trip()["pickup"]["lat"].to_string(), "+1212".to_owned(), "T 1".to_owned()];
    for received in collector.spans() {
        let text = format!("{:?}", received.span);
        assert!(!secrets.iter().any(|secret| text.contains(secret)), "{text}");
        assert!(received.span.end_time_unix_nano >= received.span.start_time_unix_nano);
    }
    let rides: BTreeSet<String> =
        spans_of(collector, PASSENGER.0).iter().filter_map(|s| s.attributes().get("ride_id").cloned()).collect();
    assert_eq!(rides, BTreeSet::from([ride_id.as_str().unwrap().to_owned()]));
    collector.tree(PASSENGER.0, PASSENGER.1, &[(DRIVER.0, "the driver's phone")])
}

#[tokio::test]
async fn a_ride_is_one_trace_in_one_process() {
    let collector = Collector::http().await;
    let url = collector.url();
    let running =
        Running::start(Shape::Embedded, &["--otel-exporter-otlp-endpoint", &url, "--traces-slow-ms", "60000"]).await;
    insta::assert_snapshot!("trace_of_a_ride", tree_of_a_ride(running, &collector).await);
    let (path, headers) = collector.requests()[0].clone();
    assert_eq!((&*path, headers["content-type"].to_str().unwrap()), ("/v1/traces", "application/x-protobuf"));
}

#[tokio::test]
async fn a_ride_that_was_long_in_coming_is_exported_although_it_is_not_sampled() {
    let collector = Collector::http().await;
    let url = collector.url();
    let otel = ["--otel-exporter-otlp-endpoint", &url, "--otel-traces-sampler", "always_off"];
    // Every search is slow; what this process has recorded of it before comes as well.
    let slow = ["--traces-slow-search-s", "0", "--traces-slow-ms", "60000"];
    let running = Running::start(Shape::Embedded, &[&otel[..], &slow[..]].concat()).await;
    insta::assert_snapshot!("trace_of_a_ride", tree_of_a_ride(running, &collector).await);
    let other = collector.spans().into_iter().find(|received| received.trace_id() != PASSENGER.0);
    assert!(other.is_none(), "nothing else is exported: {other:?}");
}

#[tokio::test]
async fn a_ride_is_one_trace_over_processes_of_their_own() {
    let collector = Collector::grpc().await;
    let url = collector.url();
    let otel = ["--otel-exporter-otlp-endpoint", &url, "--otel-exporter-otlp-protocol", "grpc"];
    let more = ["--otel-exporter-otlp-headers", "x-tenant=7", "--traces-slow-ms", "60000"];
    let running = Running::split(&[&otel[..], &more[..]].concat()).await;
    insta::assert_snapshot!("trace_of_a_ride", tree_of_a_ride(running, &collector).await);
    let (path, headers) = collector.requests()[0].clone();
    assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!((headers["te"].to_str().unwrap(), headers["x-tenant"].to_str().unwrap()), ("trailers", "7"));
    let pods: BTreeSet<String> =
        spans_of(&collector, PASSENGER.0).iter().map(|s| s.resource["service.instance.id"].clone()).collect();
    // Of users there are two, which share its messages.
    let of_others = ["pod-1", "pod-2", "pod-3"].map(str::to_owned);
    assert!(pods.is_superset(&BTreeSet::from(of_others)) && pods.len() > 3, "{pods:?}");
}

/// The spans of `name`, once there is one.
async fn named(collector: &Collector, name: &str) -> Vec<Received> {
    until(name, async || collector.spans().iter().any(|received| received.span.name == name)).await;
    collector.spans().into_iter().filter(|received| received.span.name == name).collect()
}

#[tokio::test]
async fn a_request_is_a_span_in_the_trace_of_its_client() {
    let collector = Collector::http().await;
    let running = Running::start(
        Shape::Embedded,
        &["--otel-exporter-otlp-endpoint", &collector.url(), "--otel-service-name", "rides-eu"],
    )
    .await;
    let passenger = Person::passenger(running.addr(), 1).await;
    let body = json!({"type": "finder.update", "data": trip()});
    let (authorization, of_client) = (format!("Bearer {}", passenger.token), traceparent(PASSENGER, "01"));
    let headers = [("traceparent", &*of_client), ("authorization", &*authorization)];
    let sent = testing::http::request_with(running.addr(), ("POST", "/v1/commands"), None, &headers, Some(body)).await;
    let (status, answer) = sent.unwrap();
    assert_eq!(status, 200, "{answer}");
    assert_eq!(http(running.addr(), "GET", "/v1/rides/none", None, None).await.0, 401);
    assert_eq!(http(running.addr(), "GET", "/metrics", None, None).await.0, 200);
    named(&collector, "GET /v1/rides/{id}").await;
    running.stop().await;
    let [request] = &named(&collector, "POST /v1/commands").await[..] else { panic!("one") };
    let [command] = &named(&collector, "command finder.update").await[..] else { panic!("one") };
    assert_eq!((request.trace_id(), command.trace_id()), (PASSENGER.0.to_owned(), PASSENGER.0.to_owned()));
    assert_eq!(hex::encode(&request.span.parent_span_id), PASSENGER.1);
    assert_eq!(command.span.parent_span_id, request.span.span_id);
    let attributes = request.attributes();
    let http_of = |name: &str| attributes[&format!("http.{name}")].clone();
    assert_eq!(
        [http_of("request.method"), http_of("route"), http_of("response.status_code")],
        ["POST", "/v1/commands", "200"]
    );
    let services: BTreeSet<(String, String)> =
        collector.spans().iter().map(|s| (s.service.clone(), s.scope.clone())).collect();
    let expected = ["http", "match", "users"].map(|part| ("rides-eu".to_owned(), part.to_owned()));
    assert!(expected.iter().all(|one| services.contains(one)) && services.iter().all(|(name, _)| name == "rides-eu"));
    assert!(!collector.spans().iter().any(|s| s.span.name.contains("metrics")), "what operators ask is in no trace");
}

#[tokio::test]
async fn what_is_not_sampled_is_exported_if_it_fails() {
    let collector = Collector::http().await;
    let url = collector.url();
    let sampler = ["--otel-traces-sampler", "always_off", "--traces-slow-ms", "60000"];
    let running =
        Running::start(Shape::Embedded, &[&["--otel-exporter-otlp-endpoint", &url][..], &sampler[..]].concat()).await;
    let platform = running.apps[0].platform.clone();
    let (driver, passenger) = (Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await);
    let (mut d, mut p) = (driver.connect(None).await, passenger.connect(None).await);
    ride(&mut d, &mut p, "01").await;
    // A final distance of a ride that does not exist.
    let nobody: streams::UserId = platform.world.id();
    let body = json!({"ride_id": platform.world.id::<streams::RideId>(), "driver_id": nobody, "distance_m": 1.0, "points": 0, "last": null, "final": true});
    let failing = traceparent((&"ab".repeat(16), &"cd".repeat(8)), "00");
    let message = platform::relay::message(
        "location.aggregate",
        "location.aggregate-of-nothing",
        &nobody.to_string(),
        platform.world.now(),
        &failing,
        streams::Service::Location,
        body.to_string().into(),
    );
    for result in platform.publish_all(vec![message]).await {
        result.unwrap();
    }
    until("the failure is exported", async || !collector.spans().is_empty()).await;
    drop((d, p));
    running.stop().await;
    let mut errors = BTreeMap::new();
    for received in collector.spans() {
        assert_eq!(received.trace_id(), "ab".repeat(16), "nothing else is exported");
        errors.insert(received.span.name.clone(), received.attributes().get("error.type").cloned());
    }
    assert!(errors.values().any(|error| error.as_deref() == Some("permanent")), "{errors:?}");
}

#[tokio::test]
async fn a_batch_is_a_span_with_a_link_to_each_of_its_messages() {
    const MESSAGES: usize = 40;
    let collector = Collector::http().await;
    let running = Running::start(Shape::Embedded, &["--otel-exporter-otlp-endpoint", &collector.url()]).await;
    let platform = running.apps[0].platform.clone();
    let messages = (0..MESSAGES).map(|n| {
        let driver: streams::UserId = platform.world.id();
        let at = platform.world.now();
        let beacon = json!({"user_id": driver, "active": false, "vehicle_type": "car", "location": {"lat": 1.0, "lng": 1.0}, "recorded_at": streams::event::rfc3339::text(&at)});
        let of = traceparent((&format!("{:032x}", n + 1), &"cd".repeat(8)), "01");
        let id = format!("user.beacon-{n}");
        platform::relay::message("user.beacon", &id, &driver.to_string(), at, &of, streams::Service::Users, beacon.to_string().into())
    });
    for result in platform.publish_all(messages.collect()).await {
        result.unwrap();
    }
    let of_match = "process user_beacon_match";
    let all = async || collector.spans().iter().filter(|s| s.span.name == of_match).count() == MESSAGES;
    until("every message has its span", all).await;
    running.stop().await;
    let spans: BTreeMap<Vec<u8>, Received> =
        collector.spans().into_iter().map(|received| (received.span.span_id.clone(), received)).collect();
    let batches: Vec<&Received> = spans.values().filter(|s| s.span.name == "process batch of match").collect();
    assert!(!batches.is_empty());
    for batch in batches {
        assert_eq!(batch.attributes()["messaging.batch.message_count"], batch.span.links.len().to_string());
        for link in &batch.span.links {
            let message = &spans[&link.span_id];
            assert_eq!((&message.span.trace_id, message.span.links.len()), (&link.trace_id, 1));
            assert_eq!(message.span.links[0].span_id, batch.span.span_id, "and back");
        }
    }
}

#[tokio::test]
async fn a_collector_that_is_away_or_busy_costs_spans_and_nothing_else() {
    let collector = Collector::grpc().await;
    let url = collector.url();
    let running = Running::start(
        Shape::Embedded,
        &["--otel-exporter-otlp-endpoint", &url, "--otel-exporter-otlp-protocol", "grpc"],
    )
    .await;
    let metrics = running.apps[0].platform.metrics.clone();
    let dropped = || metrics.spans_dropped.with_label_values(&["collector"]).get();
    collector.be_busy(1);
    let passenger = Person::passenger(running.addr(), 1).await;
    until("a busy collector's spans are counted", async || dropped() > 0).await;
    assert_eq!(metrics.spans_exported.get(), 0);
    let mut socket = passenger.connect(None).await;
    let offer = json!({"match_id": running.apps[0].platform.world.id::<streams::MatchId>()});
    until("it takes them again", async || {
        assert_eq!(socket.refused("match.reject", offer.clone()).await, "not_found");
        metrics.spans_exported.get() > 0
    })
    .await;
    drop(collector);
    let before = dropped();
    let began = tokio::time::timeout(WAIT, async {
        until("spans are counted", async || {
            assert_eq!(socket.refused("match.reject", offer.clone()).await, "not_found");
            dropped() > before
        })
        .await
    });
    began.await.expect("nobody waits for a collector");
    drop(socket);
    running.stop().await;
}
