//! What operators read: health, statistics and metrics.

use std::time::Duration;

use serde_json::{Value, json};
use streams::Bus;
use streams::pods::{Heartbeat, PodHealth, Status};
use tokio::time::timeout;

use crate::harness::client::http;
use crate::harness::running::{Running, Shape};
use crate::harness::{on_both_shapes, rideshare, until};

on_both_shapes!(operators_routes_answer, a_pod_sends_heartbeats_and_answers_for_its_health_and_services);

async fn operators_routes_answer(shape: Shape) {
    let running = Running::start(shape, &[]).await;
    let get = async |path| http(running.addr(), "GET", path, None, None).await;
    assert_eq!(get("/health/live").await.0, 200);
    let (status, ready) = get("/health/ready").await;
    assert_eq!((status, &ready["status"]), (200, &json!("ready")));
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
    let (status, problem) = http(running.addr(), "PUT", "/v1/me", None, None).await;
    assert_eq!((status, &problem["status"]), (405, &json!(405)));
    running.stop().await;
}

/// Limit of every wait.
const SOON: Duration = Duration::from_secs(30);

async fn request(bus: &Bus, subject: &str, body: &'static str) -> Value {
    serde_json::from_slice(&bus.request(subject, body.into(), SOON).await.unwrap()).unwrap()
}

async fn a_pod_sends_heartbeats_and_answers_for_its_health_and_services(shape: Shape) {
    let running = Running::start(shape, &["--pod-id", "pod-7"]).await;
    let (bus, health) = (running.bus(), &running.apps[0].platform.health);
    let all = json!(["users", "match", "rides", "location"]);
    let mut heartbeats = bus.subscribe("pods.heartbeat", None).await.unwrap();
    let mut heartbeat = async || -> Heartbeat {
        let message = timeout(SOON, heartbeats.next()).await.unwrap().unwrap();
        serde_json::from_slice(&message.payload).unwrap()
    };
    let (first, second) = (heartbeat().await, heartbeat().await);
    assert_eq!((first.pod_id.as_str(), json!(first.services)), ("pod-7", all.clone()));
    assert!(second.time > first.time && second.uptime_s > first.uptime_s, "{first:?} {second:?}");
    assert!(second.subscriptions > 40 && second.sockets == 0, "{second:?}");
    if std::path::Path::new("/proc/self/stat").exists() {
        assert!(second.memory_bytes.unwrap() > 1_000_000 && second.cpu_percent.unwrap() >= 0.0, "{second:?}");
    }

    // Nobody must send anything in particular.
    for body in ["", "{}", "\"", "[1,2"] {
        let found: PodHealth = serde_json::from_value(request(bus, "pods.pod-7.health", body).await).unwrap();
        assert_eq!((found.pod_id.as_str(), found.status, json!(found.services)), ("pod-7", Status::Ready, all.clone()));
        let parts: Vec<&str> = found.parts.iter().map(|part| part.name.as_str()).collect();
        for part in
            ["breaker rides", "bus", "consumer user_beacon_users", "database users", "ride commands", "topology"]
        {
            assert!(parts.contains(&part), "{part}: {parts:?}");
        }
    }
    health.set_unhealthy("a part", "it broke");
    let found = request(bus, "pods.pod-7.health", "").await;
    assert_eq!(found["status"], "not ready");
    let part = json!({"name": "a part", "status": "not ready", "detail": "it broke"});
    assert!(found["parts"].as_array().unwrap().contains(&part), "{found}");
    let (status, ready) = http(running.addr(), "GET", "/health/ready", None, None).await;
    assert_eq!((status, &ready["faults"]["a part"]), (503, &json!("it broke")), "the same parts");

    for (service, endpoint, subject, group) in [
        ("users", "ended_sign_ins", "users.sign_ins.list", "users.sign_ins.list"),
        ("users", "health", "pods.pod-7.health", ""),
        ("users", "drivers", "users.drivers", ""),
        ("match", "user_finder_match", "dead_letters.user_finder_match", "user_finder_match"),
        ("rides", "command", "rides.command", "rides"),
        ("location", "fleet", "location.service.fleet", "location"),
        ("location", "newest", "location.newest", "location"),
        ("location", "driven", "location.driven", "location"),
    ] {
        let id = format!("pod-7-{service}");
        for (verb, kind) in [("PING", "ping"), ("INFO", "info"), ("STATS", "stats")] {
            for subject in [format!("$SRV.{verb}.{service}"), format!("$SRV.{verb}.{service}.{id}")] {
                let reply = request(bus, &subject, "").await;
                assert_eq!(reply["type"], format!("io.nats.micro.v1.{kind}_response"));
                assert_eq!((&reply["name"], &reply["id"]), (&json!(service), &json!(id)));
            }
            assert_eq!(request(bus, &format!("$SRV.{verb}"), "").await["metadata"], json!({"pod": "pod-7"}));
        }
        let info = request(bus, &format!("$SRV.INFO.{service}"), "").await;
        let listed = json!({"name": endpoint, "subject": subject, "queue_group": group, "metadata": {}});
        assert!(info["endpoints"].as_array().unwrap().contains(&listed), "{listed}: {info}");
    }

    let command = async || -> Value {
        let stats = request(bus, "$SRV.STATS.rides", "").await;
        stats["endpoints"].as_array().unwrap().iter().find(|e| e["name"] == "command").unwrap().clone()
    };
    assert_eq!(command().await["num_requests"], 0);
    let reply = request(bus, "rides.command", "no command").await;
    assert_eq!(reply["error"]["code"], "invalid_field");
    until("the request is counted", async || command().await["num_requests"] == 1).await;
    let counted = command().await;
    assert_eq!((&counted["num_errors"], &counted["last_error"]), (&json!(1), &json!("invalid_field")));
    assert!(counted["processing_time"].as_u64() == counted["average_processing_time"].as_u64(), "{counted}");
    running.except_own("rides.command");
    running.stop().await;
}

#[test]
fn an_empty_pod_id_is_refused_at_start() {
    let run = rideshare(&["--pod-id", ""]);
    let error = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && error.contains("POD_ID is empty"), "{error}");
}
