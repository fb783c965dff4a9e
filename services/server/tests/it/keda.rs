//! The lag by which KEDA scales the services (`docker/helm`), computed from the monitoring port of a nats-server as KEDA's scaler
//! `nats-jetstream` does, against what the platform itself reports; and the chart's thresholds, which one stuck message must not reach.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use streams::topology::Topology;
use streams::{Headers, Message, Service, Subject};

use crate::harness::client::{WAIT, http};
use crate::harness::nats::Nats;
use crate::harness::running::{shared, start};
use crate::harness::until;

/// The account of clients if the server's configuration names none.
const ACCOUNT: &str = "$G";
const CONSUMER: &str = "match_accepted_rides";

/// Where the server answers operators.
fn monitoring_address(server: &Nats) -> SocketAddr {
    let mut files = std::fs::read_dir(server.directory()).unwrap().map(|entry| entry.unwrap().path());
    let ports = files.find(|path| path.extension().is_some_and(|extension| extension == "ports")).unwrap();
    let text = std::fs::read_to_string(ports).unwrap();
    let url = text.split('"').find_map(|part| part.strip_prefix("http://")).expect("a monitoring port");
    url.parse().unwrap()
}

/// The item of `list` with this name.
fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|item| item["name"] == name)
}

/// `getMaxMsgLag` of KEDA's `pkg/scalers/nats_jetstream_scaler.go`, as of 2.19. From 2.20 on a missing consumer is an error, and the
/// number of pods stays as it is.
async fn keda_lag(monitoring: SocketAddr, stream: &str, consumer: &str) -> u64 {
    let path = format!("/jsz?acc={ACCOUNT}&consumers=true&config=true");
    let (status, jsz) = testing::http::request(monitoring, "GET", &path, None, None).await.unwrap();
    assert_eq!(status, 200, "{jsz}");
    let account = named(&jsz["account_details"], ACCOUNT).expect("the account");
    let stream = named(&account["stream_detail"], stream).expect("the stream");
    match named(&stream["consumer_detail"], consumer) {
        Some(found) => found["num_pending"].as_u64().unwrap() + found["num_ack_pending"].as_u64().unwrap(),
        None => stream["state"]["last_seq"].as_u64().unwrap(),
    }
}

/// The same number from `GET /stats` and from `GET /metrics` of a process.
async fn platform_lag(process: SocketAddr, consumer: &str) -> (Option<u64>, Option<u64>) {
    let (_, stats) = http(process, "GET", "/stats", None, None).await;
    let found = named(&stats["consumers"], consumer);
    let of_stats = found.map(|found| found["pending"].as_u64().unwrap() + found["ack_pending"].as_u64().unwrap());
    let (_, metrics) = http(process, "GET", "/metrics", None, None).await;
    let gauge = |name: &str| -> Option<u64> {
        let line = format!("rideshare_{name}{{consumer=\"{consumer}\"}} ");
        metrics.as_str()?.lines().find_map(|l| l.strip_prefix(&line))?.parse().ok()
    };
    (of_stats, gauge("consumer_pending").zip(gauge("consumer_ack_pending")).map(|(pending, unacked)| pending + unacked))
}

/// All values of a key in the chart's values.yaml.
fn chart_values(key: &str) -> Vec<u64> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker/helm/values.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().filter_map(|line| line.split('#').next());
    // A trigger is one line in braces.
    let parts = lines.flat_map(|line| line.split(['{', ',', '}']));
    parts.filter_map(|part| part.trim().strip_prefix(key)?.strip_prefix(": ")?.parse().ok()).collect()
}

#[tokio::test]
async fn the_lag_that_keda_reads_is_the_one_that_the_platform_reports() {
    let nats = Nats::start().await;
    let settings = shared(&nats, &[]).await;
    // Nobody reads the consumer of rides.
    let app = start(&settings, &[Service::Location]).await.remove(0);
    let (monitoring, bus, process) = (monitoring_address(&nats), nats.bus().await, app.addr);
    let consumer = Topology::rideshare().consumer(Subject::MatchAccepted, Service::Rides).clone();
    assert_eq!(consumer.durable, CONSUMER);
    let agree = async |expected: u64| {
        let what = format!("the lag is {expected} everywhere");
        until(&what, async || {
            let keda = keda_lag(monitoring, &consumer.stream, CONSUMER).await;
            let platform = platform_lag(process, CONSUMER).await;
            keda == expected && platform == (Some(expected), Some(expected))
        })
        .await;
    };
    agree(0).await;
    for _ in 0..7 {
        let payload = bytes::Bytes::from_static(b"{}");
        let message = Message { subject: "match.accepted".to_owned(), headers: Headers::default(), payload };
        bus.publish(message).await.unwrap();
    }
    agree(7).await;
    let mut puller = bus.pull(&consumer).await.unwrap();
    let taken = puller.fetch(7, WAIT).await.unwrap();
    assert_eq!(taken.len(), 7);
    agree(7).await;
    for delivery in &taken[1..] {
        delivery.ack_confirmed().await.unwrap();
    }
    agree(1).await;

    // Now one message is stuck: it is delivered and never acknowledged, as often as the consumer allows.
    taken[0].retry(Duration::ZERO).await.unwrap();
    for deliveries in 2..=5 {
        let again = puller.fetch(1, WAIT).await.unwrap();
        assert_eq!(again.iter().map(|delivery| delivery.deliveries).collect::<Vec<_>>(), [deliveries]);
        assert_eq!(keda_lag(monitoring, &consumer.stream, CONSUMER).await, 1, "delivery {deliveries}");
        again[0].retry(Duration::ZERO).await.unwrap();
    }
    // The deliveries are used up: the sweeper dead-letters it, and nothing waits any more.
    assert!(puller.fetch(1, Duration::from_secs(1)).await.unwrap().is_empty());
    agree(0).await;

    // The process would create a deleted consumer again within seconds.
    assert!(app.stop().await);
    bus.delete_consumer(&consumer.stream, CONSUMER).await.unwrap();
    let lag = keda_lag(monitoring, &consumer.stream, CONSUMER).await;
    assert_eq!(
        lag, 7,
        "without the consumer it is all that the stream ever held: ScaledObjects must not exist before it"
    );
}

#[test]
fn one_stuck_message_reaches_no_threshold_of_the_chart() {
    let (thresholds, activations) = (chart_values("lagThreshold"), chart_values("activationLagThreshold"));
    let minimums = chart_values("minReplicas");
    assert!(thresholds.len() >= 20 && activations.len() == 1 && minimums.len() == 4, "values.yaml is read as text");
    for activation in activations {
        assert!(activation >= 1, "KEDA is active above {activation}");
    }
    // Some messages of a consumer may be stuck at once: ten of them want no more pods than there always are.
    for (threshold, minimum) in thresholds.iter().flat_map(|t| minimums.iter().map(move |m| (t, m))) {
        assert!(10_u64.div_ceil(*threshold) <= *minimum, "ten stuck messages by {threshold} want more than {minimum}");
    }
}
