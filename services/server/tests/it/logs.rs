//! Log lines: those of a handler carry the message's id and its trace, and none carries what is secret.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::{Value, json};
use streams::bus::MESSAGE_ID;
use streams::{Headers, Message};
use tracing::subscriber::set_default;
use tracing_subscriber::EnvFilter;

use crate::harness::client::Person;
use crate::harness::ride::{online, trip};
use crate::harness::running::{Running, Shape};
use crate::harness::until;

/// Everything that was logged, as one JSON object a line.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines(&self) -> Vec<Value> {
        let text = self.0.lock().unwrap().clone();
        String::from_utf8(text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Logs here whatever this thread does, until the guard is dropped.
    fn install(&self, filter: &str) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_env_filter(EnvFilter::new(filter))
            .with_writer(move || log.clone())
            .finish();
        set_default(subscriber)
    }
}

#[tokio::test]
async fn the_topology_is_one_line_and_its_details_are_at_debug() {
    let log = Log::default();
    let _installed = log.install("debug");
    let running = Running::start(Shape::Nats, &[]).await;
    let of_topology = |level: &str| {
        let mut lines = log.lines();
        lines.retain(|line| line["level"] == level && line["message"].as_str().is_some_and(|m| m.contains("topology")));
        lines
    };
    let [line] = &of_topology("INFO")[..] else { panic!("{:?}", of_topology("INFO")) };
    let topology = running.apps[0].platform.topology.with_sweeper();
    let (streams, consumers) = (topology.streams.len(), topology.consumers.len());
    assert_eq!((&line["streams"], &line["consumers"]), (&json!(streams), &json!(consumers)));
    assert!(of_topology("DEBUG").len() >= streams + consumers);
    // All are gone.
    let platform = running.apps[0].platform.clone();
    for stream in &topology.streams {
        platform.bus.delete_stream(&stream.name).await.unwrap();
    }
    until("they are back", async || !of_topology("WARN").is_empty()).await;
    running.stop().await;
    let lines = of_topology("WARN");
    assert!(lines.len() <= 4, "a few lines for {streams} streams and {consumers} consumers: {lines:?}");
}

#[tokio::test]
async fn a_line_of_a_handler_carries_message_id_and_trace_id() {
    let log = Log::default();
    let _installed = log.install("info");
    let running = Running::start(Shape::Embedded, &[]).await;
    let platform = &running.apps[0].platform;
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut headers = Headers::default();
    headers.set(MESSAGE_ID, "match.accepted-1-1");
    headers.set("traceparent", format!("00-{trace_id}-00f067aa0ba902b7-01"));
    // What no handler can parse is logged as a dead letter.
    let payload = Bytes::from_static(b"{}");
    platform.bus.publish(Message { subject: "match.accepted".to_owned(), headers, payload }).await.unwrap();
    let dead_letters = || {
        let lines = log.lines().into_iter();
        lines.filter(|line| line["message"] == "dead letter").collect::<Vec<_>>()
    };
    until("the dead letter is logged by each consumer", async || dead_letters().len() == 3).await;
    for line in dead_letters() {
        let span = &line["span"];
        assert_eq!(
            (&span["message_id"], &span["trace_id"]),
            (&json!("match.accepted-1-1"), &json!(trace_id)),
            "{line}"
        );
    }
    running.stop().await;
}

/// Phones, codes and tokens are in no line, at the most detailed level of the services' own code, of a whole sign-in and search.
#[tokio::test]
async fn no_line_has_a_phone_a_code_or_a_token() {
    let log = Log::default();
    let _installed =
        log.install("info,users=trace,rides=trace,matching=trace,location=trace,platform=trace,server=trace");
    let running = Running::start(Shape::Embedded, &[]).await;
    let (driver, passenger) = (Person::driver(running.addr(), 1).await, Person::passenger(running.addr(), 2).await);
    let (mut d, mut p) = (driver.connect(None).await, passenger.connect(None).await);
    online(&mut d, 40.751).await;
    p.ack("finder.update", trip()).await;
    let found = d.event("match.found").await["data"]["match_id"].clone();
    d.ack("match.accept", json!({"match_id": found})).await;
    let pin = p.event("ride.pickup").await["data"]["pin"].as_str().unwrap().to_owned();
    let lines = log.lines();
    assert!(lines.iter().any(|line| line["message"].is_string()), "nothing was logged");
    let is_secret = |line: &Value| {
        let text = line.to_string();
        let quoted_pin = format!("\"{pin}\"");
        [&driver.token, &passenger.token, "+1212234", &quoted_pin].iter().any(|secret| text.contains(*secret))
    };
    assert_eq!(lines.into_iter().filter(is_secret).collect::<Vec<_>>(), Vec::<Value>::new());
    drop((d, p));
    running.stop().await;
}
