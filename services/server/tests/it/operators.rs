//! What operators read: health, statistics and metrics.

use serde_json::{Value, json};

use crate::harness::client::http;
use crate::harness::on_both_shapes;
use crate::harness::running::{Running, Shape};

on_both_shapes!(operators_routes_answer);

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
    let (status, problem) = http(running.addr(), "DELETE", "/v1/me", None, None).await;
    assert_eq!((status, &problem["status"]), (405, &json!(405)));
    running.stop().await;
}
