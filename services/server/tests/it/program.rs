//! The binary itself: its commands, its exit status, its words.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::client::http;
use crate::harness::running::{Running, Shape};
use testing::nats::Server;

pub(crate) fn rideshare(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rideshare"));
    for name in ["QUEUE_TYPE", "DATABASE_URL", "NATS_URL", "JWT_SECRET", "OTP_DELIVERY", "HTTP_ADDR"] {
        command.env_remove(name);
    }
    command.args(args).output().unwrap()
}

#[test]
fn what_cannot_work_ends_with_a_reason() {
    for (args, reason) in [
        (&["run", "users"][..], "run all four services"),
        (&["run", "kitchen"], "unknown service `kitchen`"),
        (&["--queue-type", "nats"], "DATABASE_URL"),
        (&["streams", "show"], "QUEUE_TYPE=nats"),
        (&["migrate"], "DATABASE_URL"),
        (&["--otp-delivery", "pigeon"], "OTP_DELIVERY"),
        (&["--payment-provider", "cash"], "PAYMENT_PROVIDER"),
        (&["--jwt-secret", "short"], "32"),
    ] {
        let output = rideshare(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{args:?}: {said}");
    }
    let help = rideshare(&["--help"]);
    let said = String::from_utf8_lossy(&help.stdout);
    for name in
        ["QUEUE_TYPE", "NATS_URL", "DATABASE_URL", "MATCH_OFFER_TTL_S", "TRACK_MAX_SPEED_MPS", "FARE_CAR", "POD_ID"]
    {
        assert!(said.contains(name), "--help does not tell {name}");
    }
}

#[test]
fn export_writes_the_files_of_the_repository() {
    let directory = std::env::temp_dir().join(format!("rideshare-export-{}", std::process::id()));
    let output = rideshare(&["streams", "export", directory.to_str().unwrap()]);
    assert!(output.status.success());
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/../../streams");
    for file in ["RIDE_STREAM.json", "consumers/match_accepted_rides.json"] {
        let written = std::fs::read_to_string(directory.join(file)).unwrap();
        assert_eq!(written, std::fs::read_to_string(format!("{repository}/{file}")).unwrap(), "{file}");
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn streams_apply_brings_the_server_to_the_topology_and_show_says_so() {
    let nats = Server::new().unwrap();
    let url = nats.url.clone();
    let run = |args: &'static [&'static str]| {
        let base = ["--queue-type", "nats", "--nats-url", &url];
        rideshare(&[args, &base[..]].concat())
    };
    let before = run(&["streams", "show"]);
    assert_eq!(before.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&before.stdout).contains("differs: stream RIDE_STREAM: missing"));
    assert!(run(&["streams", "apply"]).status.success());
    let after = run(&["streams", "show"]);
    assert!(after.status.success(), "{}", String::from_utf8_lossy(&after.stdout));
}

async fn operators_see(shape: Shape) {
    let running = Running::start(shape, &[]).await;
    let get = async |path| http(running.addr(), "GET", path, None, None).await;
    assert_eq!(get("/health/live").await.0, 200);
    assert_eq!(get("/health/ready").await, (200, json!({"status": "ready"})));
    let (status, stats) = get("/stats").await;
    assert_eq!(status, 200);
    for (group, fields) in [
        ("queue", &["total_enqueued", "total_dequeued", "current_size"]),
        ("pool", &["processed_count", "error_count", "total_duration"]),
    ] {
        for field in fields {
            assert!(stats[group][field].is_number(), "{group}.{field}: {stats}");
        }
    }
    let consumers = stats["consumers"].as_array().unwrap();
    assert_eq!(consumers.len(), streams::topology::Topology::rideshare().consumers.len());
    for field in ["pending", "ack_pending", "redelivered", "dead_lettered"] {
        assert!(consumers.iter().all(|c| c[field].is_u64()), "{field}");
    }
    let (status, metrics) = get("/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.as_str().unwrap().contains("# TYPE rideshare_sockets gauge"));
    let (status, problem) = get("/v1/nothing").await;
    assert_eq!((status, &problem["code"]), (404, &Value::from("no_such_route")));
    let (status, problem) = http(running.addr(), "DELETE", "/v1/me", None, None).await;
    assert_eq!((status, &problem["status"]), (405, &json!(405)));
    running.stop().await;
}

#[tokio::test]
async fn operators_see_embedded() {
    operators_see(Shape::Embedded).await;
}

#[tokio::test]
async fn operators_see_on_nats() {
    operators_see(Shape::Nats).await;
}
