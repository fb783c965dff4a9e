//! Devices: each has its own mark in the mailbox, and a client learns what it has missed.

use serde_json::json;
use testing::{Backend, on_both_stores};

use crate::pods::Cluster;

on_both_stores!(an_ack_of_one_device_takes_nothing_from_another, a_client_learns_what_it_has_missed);

async fn an_ack_of_one_device_takes_nothing_from_another(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550701").await;
    let mut phone = pod.connect_on("phone", user, None).await;
    let mut tablet = pod.connect_on("tablet", user, None).await;
    cluster.publish_searches(user, 6).await;
    assert_eq!(phone.seqs(6).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(tablet.seqs(6).await, [1, 2, 3, 4, 5, 6]);
    tablet.close().await;
    phone.ack("mailbox.ack", json!({"seq": 6})).await;
    // It had read two when its network went.
    let mut tablet = pod.connect_on("tablet", user, Some(2)).await;
    assert_eq!(tablet.welcome.get("missed"), None);
    assert_eq!(tablet.seqs(4).await, [3, 4, 5, 6]);
    tablet.ack("mailbox.ack", json!({"seq": 4})).await;
    let mut again = pod.connect_on("phone", user, Some(0)).await;
    assert_eq!(again.welcome["missed"], json!({"from": 1, "to": 4}), "both have acknowledged these");
    assert_eq!(again.seqs(2).await, [5, 6]);
    pod.stop().await;
}

async fn a_client_learns_what_it_has_missed(backend: Backend) {
    let cluster = Cluster::on(backend).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550702").await;
    let mut phone = pod.connect_on("phone", user, None).await;
    assert_eq!(phone.welcome.get("missed"), None);
    assert_eq!(phone.welcome["server_time"].as_str().unwrap().len(), "2026-03-01T08:00:00.000000Z".len());
    let limits = &phone.welcome["limits"];
    let named =
        ["points_per_message", "frames_per_s", "sockets_per_user", "silence_s"].map(|name| limits[name].as_f64());
    assert_eq!(named, [Some(100.0), Some(50.0), Some(5.0), Some(60.0)]);
    cluster.publish_searches(user, 5).await;
    phone.seqs(5).await;
    phone.ack("mailbox.ack", json!({"seq": 3})).await;
    let missed = async |last_seq| {
        let client = pod.connect_on("phone", user, last_seq).await;
        let missed = client.welcome.get("missed").cloned();
        client.close().await;
        missed
    };
    assert_eq!(missed(Some(0)).await, Some(json!({"from": 1, "to": 3})));
    assert_eq!(missed(Some(2)).await, Some(json!({"from": 3, "to": 3})));
    for complete in [Some(3), Some(5), Some(99), None] {
        assert_eq!(missed(complete).await, None, "{complete:?}");
    }
    pod.stop().await;
}

/// Two sockets of one device: what the first has acknowledged is gone when the second, which is behind, reads on.
#[tokio::test(start_paused = true)]
async fn a_gap_that_no_welcome_named_is_named_in_its_place() {
    let cluster = Cluster::on(Backend::Memory).await;
    let mut pod = cluster.pod("one").await;
    let user = pod.passenger("+12125550703").await;
    let mut swift = pod.connect_on("phone", user, None).await;
    let mut slow = pod.open_with(crate::client::request(user, None).on_device("phone").unwrap(), 1);
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    cluster.publish_searches(user, 300).await;
    swift.seqs(300).await;
    swift.ack("mailbox.ack", json!({"seq": 290})).await;
    assert_eq!(slow.next().await["type"], "welcome");
    let mut expected = 1;
    let mut missed = 0;
    while expected <= 300 {
        let frame = slow.next().await;
        if frame["type"] == "missed" {
            assert_eq!(frame["data"]["from"], expected, "{frame}");
            expected = frame["data"]["to"].as_u64().unwrap() + 1;
            missed += 1;
        } else {
            assert_eq!(frame["seq"], expected, "{frame}");
            expected += 1;
        }
    }
    assert_eq!(missed, 1);
    pod.stop().await;
}
