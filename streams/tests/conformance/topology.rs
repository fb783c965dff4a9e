//! Creating, comparing, updating and deleting streams and consumers.

use anyhow::Result;
use std::time::Duration;
use streams::BusError;
use streams::topology::{Consumer, Retention, Storage, Stream, Topology};

use crate::fixture::*;

pub(crate) async fn apply_reports_what_it_created_and_nothing_when_repeated(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let consumer = f.consumer(&stream, "C", "a");
    let changes = f.apply(&[&stream], &[&consumer]).await?;
    assert_eq!(
        changes,
        [
            format!("stream {}: missing, created", stream.name),
            format!("consumer {} on {}: missing, created", consumer.durable, stream.name),
        ]
    );
    for _ in 0..2 {
        assert_eq!(f.apply(&[&stream], &[&consumer]).await?, Vec::<String>::new());
    }
    Ok(())
}

pub(crate) async fn a_consumer_is_made_again_from_a_time_on(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    f.publish_numbers("a", 2).await?;
    sleep(millis(50)).await;
    f.publish("a", "later").await?;
    let at = f.bus.get_message(&stream.name, 3).await?.stored_at;
    receive_and_ack(&mut f.pull(&consumer).await?, 3).await?;
    f.bus.recreate_consumer(&consumer, at).await?;
    assert_eq!(f.lag(&consumer).await?, (1, 0));
    // No difference from a consumer that began with its stream.
    assert_eq!(f.apply(&[&stream], &[&consumer]).await?, Vec::<String>::new());
    let mut puller = f.pull(&consumer).await?;
    f.publish("a", "next").await?;
    assert_eq!(texts(&receive_and_ack(&mut puller, 2).await?), ["later", "next"]);
    f.bus.delete_consumer(&stream.name, &consumer.durable).await?;
    f.bus.recreate_consumer(&consumer, at - Duration::from_secs(3_600)).await?;
    assert_eq!(f.lag(&consumer).await?, (4, 0));
    Ok(())
}

pub(crate) async fn compare_changes_nothing(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let consumer = f.consumer(&stream, "C", "a");
    let wanted = topology(&[&stream], &[&consumer]);
    assert_eq!(f.bus.compare(&wanted).await?.len(), 2);
    assert!(matches!(f.bus.stream_info(&stream.name).await, Err(BusError::NotFound(_))));
    f.bus.apply(&wanted).await?;
    assert_eq!(f.bus.compare(&wanted).await?, Vec::<String>::new());
    Ok(())
}

pub(crate) async fn apply_reports_and_corrects_differences(f: &Fixture) -> Result<()> {
    let mut stream = f.stream("S", &["a", "b"], Retention::Interest);
    let mut consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    stream.max_bytes = 128 << 20;
    stream.subjects.push(f.subject("c"));
    consumer.ack_wait = Duration::from_secs(7);
    consumer.max_ack_pending = 2_000;
    let mut changes = f.bus.compare(&topology(&[&stream], &[&consumer])).await?;
    assert_eq!(f.apply(&[&stream], &[&consumer]).await?, changes);
    changes.sort();
    let of_consumer = format!("consumer {} on {}", consumer.durable, stream.name);
    assert_eq!(
        changes[..3],
        [
            format!("{of_consumer}: ack_wait was 30000000000, becomes 7000000000"),
            format!("{of_consumer}: max_ack_pending was 1000, becomes 2000"),
            format!("stream {}: max_bytes was 67108864, becomes 134217728", stream.name),
        ]
    );
    assert!(changes[3].starts_with(&format!("stream {}: subjects was [", stream.name)), "{}", changes[3]);
    assert_eq!(changes.len(), 4);
    assert_eq!(f.apply(&[&stream], &[&consumer]).await?, Vec::<String>::new());
    f.publish("c", "captured now").await?;
    Ok(())
}

/// A lower limit would delete messages.
pub(crate) async fn raised_limit_stays(f: &Fixture) -> Result<()> {
    let mut stream = f.stream("S", &["a"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    let raised = Stream {
        max_bytes: 2 * stream.max_bytes,
        max_age: 2 * stream.max_age,
        duplicate_window: 2 * stream.duplicate_window,
        ..stream.clone()
    };
    assert_eq!(f.apply(&[&raised], &[]).await?.len(), 3);
    assert_eq!(f.bus.compare(&topology(&[&stream], &[])).await?, Vec::<String>::new());
    // Nor does another change lower it.
    stream.subjects.push(f.subject("b"));
    assert_eq!(f.apply(&[&stream], &[]).await?.len(), 1);
    assert_eq!(f.bus.stream_info(&stream.name).await?.max_bytes, raised.max_bytes);
    let without_b = f.bus.compare(&topology(&[&raised], &[])).await?;
    assert_eq!(without_b.len(), 0, "a subject that a newer version added stays: {without_b:?}");
    let mut consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    let raised = Consumer { max_ack_pending: 2 * consumer.max_ack_pending, ..consumer.clone() };
    assert_eq!(f.apply(&[&stream], &[&raised]).await?.len(), 1);
    assert_eq!(f.bus.compare(&topology(&[&stream], &[&consumer])).await?, Vec::<String>::new());
    // Nor does another change lower it.
    consumer.ack_wait *= 2;
    assert_eq!(f.apply(&[&stream], &[&consumer]).await?.len(), 1);
    let raised = Consumer { ack_wait: consumer.ack_wait, ..raised };
    assert_eq!(f.bus.compare(&topology(&[&stream], &[&raised])).await?, Vec::<String>::new());
    Ok(())
}

pub(crate) async fn unnamed_setting_stays(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    let mut consumer = f.consumer(&stream, "C", "a");
    consumer.backoff = vec![Duration::from_secs(1), Duration::from_secs(2)];
    consumer.ack_wait = consumer.backoff[0];
    consumer.max_deliver = 5;
    f.apply(&[&stream], &[&consumer]).await?;
    let backoff = std::mem::take(&mut consumer.backoff);
    consumer.max_ack_pending = 7_000;
    assert_eq!(f.apply(&[&stream], &[&consumer]).await?.len(), 1);
    consumer.backoff = backoff;
    assert_eq!(f.bus.compare(&topology(&[&stream], &[&consumer])).await?, Vec::<String>::new());
    Ok(())
}

pub(crate) async fn update_preserves_the_cursor(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    let mut consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    f.publish_numbers("a", 4).await?;
    let mut puller = f.pull(&consumer).await?;
    receive_and_ack(&mut puller, 1).await?;
    let held = receive_one(&mut puller).await?;
    puller.close().await;
    consumer.max_ack_pending = 7_700;
    assert_eq!(f.apply(&[&stream], &[&consumer]).await?.len(), 1);
    held.ack_confirmed().await?;
    let mut rest = receive_and_ack(&mut f.pull(&consumer).await?, 2).await?;
    rest.sort_by_key(|d| d.message.sequence);
    assert_eq!(texts(&rest), ["2", "3"]);
    f.until_lag(&consumer, (0, 0)).await
}

pub(crate) async fn changed_filter_continues_at_the_cursor(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a", "b"], Retention::Limits);
    let mut consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    for (subject, payload) in [("b", "0"), ("a", "1"), ("b", "2"), ("a", "3")] {
        f.publish(subject, payload).await?;
    }
    let mut puller = f.pull(&consumer).await?;
    let first = puller.fetch(1, Duration::from_secs(5)).await?;
    assert_eq!(texts(&first), ["1"]);
    first[0].ack_confirmed().await?;
    puller.close().await;
    consumer.filter = f.subject("b");
    assert_eq!(f.apply(&[&stream], &[&consumer]).await?.len(), 1);
    let info = f.bus.consumer_info(&stream.name, &consumer.durable).await?;
    // The closed puller may have had the second message of `a` on its way and returned it.
    if info.delivered == 2 {
        assert_eq!(texts(&receive_and_ack(&mut f.pull(&consumer).await?, 1).await?), ["2"]);
    }
    f.publish("b", "4").await?;
    let mut puller = f.pull(&consumer).await?;
    loop {
        if texts(&receive_and_ack(&mut puller, 1).await?) == ["4"] {
            return Ok(());
        }
    }
}

pub(crate) async fn delivered_is_the_last_sequence_delivered(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a", "b"], Retention::Limits);
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    for subject in ["a", "b", "b"] {
        f.publish(subject, "x").await?;
    }
    let mut puller = f.pull(&consumer).await?;
    receive_and_ack(&mut puller, 1).await?;
    receive_nothing(&mut puller, millis(300)).await?;
    let info = f.bus.consumer_info(&stream.name, &consumer.durable).await?;
    assert_eq!((info.delivered, info.ack_floor), (1, 1), "although it looked farther");
    Ok(())
}

pub(crate) async fn filter_may_be_empty(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a", "b"], Retention::Limits);
    let mut consumer = f.consumer(&stream, "C", "");
    f.apply(&[&stream], &[&consumer]).await?;
    assert_eq!(f.apply(&[&stream], &[&consumer]).await?, Vec::<String>::new());
    consumer.filter = f.subject("a");
    let change = format!(
        "consumer {} on {}: filter_subject was \"\", becomes \"{}\"",
        consumer.durable, stream.name, consumer.filter
    );
    assert_eq!(f.apply(&[&stream], &[&consumer]).await?, [change]);
    Ok(())
}

pub(crate) async fn invalid_topologies_are_refused(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a.*"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    let refused = async |what: &str, topology: Topology| {
        let refused = f.bus.apply(&topology).await;
        assert!(matches!(refused, Err(BusError::Refused(_))), "{what}: {refused:?}");
    };
    for (what, subjects) in [("another stream's subject", vec!["a.b"]), ("its own twice", vec!["c.>", "c.d"])] {
        refused(what, topology(&[&f.stream("T", &subjects, Retention::Limits)], &[])).await;
    }
    let mut window = f.stream("W", &["w"], Retention::Limits);
    window.max_age = Duration::from_secs(10);
    window.duplicate_window = Duration::from_secs(11);
    refused("a window longer than the age", topology(&[&window], &[])).await;
    let mut moved = stream.clone();
    moved.storage = Storage::File;
    refused("another storage", topology(&[&moved], &[])).await;
    let mut queue = stream.clone();
    queue.retention = Retention::WorkQueue;
    refused("becoming a work queue", topology(&[&queue], &[])).await;
    let mut bounded = f.consumer(&stream, "B", "a.b");
    bounded.max_deliver = 1;
    bounded.backoff = vec![millis(100), millis(200)];
    bounded.ack_wait = millis(100);
    refused("more back-offs than deliveries", topology(&[&stream], &[&bounded])).await;
    assert_eq!(f.bus.compare(&topology(&[&stream], &[])).await?, Vec::<String>::new());
    Ok(())
}

pub(crate) async fn consumer_without_its_stream_is_not_found(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    let consumer = f.consumer(&stream, "C", "a");
    // The second one would be refused on any stream: a missing stream is found first.
    let mut impossible = consumer.clone();
    (impossible.max_deliver, impossible.backoff) = (1, vec![millis(100), millis(200)]);
    for consumer in [&consumer, &impossible] {
        let applied = f.bus.apply(&topology(&[], &[consumer])).await;
        assert!(matches!(applied, Err(BusError::NotFound(_))), "{applied:?}");
    }
    Ok(())
}

pub(crate) async fn deleted_consumer_is_not_found_and_can_be_recreated(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let (consumer, other) = (f.consumer(&stream, "C", "a"), f.consumer(&stream, "other", "a"));
    f.apply(&[&stream], &[&consumer, &other]).await?;
    let mut puller = f.pull(&consumer).await?;
    f.publish_numbers("a", 1).await?;
    let held = receive_one(&mut puller).await?;
    f.bus.delete_consumer(&stream.name, &consumer.durable).await?;
    eventually("not found", || async { Ok(f.lag(&consumer).await.is_err()) }).await?;
    assert!(matches!(held.ack_confirmed().await, Err(BusError::NotFound(_))));
    let mut fetched = puller.fetch(1, millis(500)).await;
    if fetched.is_ok() {
        // The server's word that the open pull request has ended may still have been on its way.
        fetched = puller.fetch(1, millis(500)).await;
    }
    assert!(matches!(fetched, Err(BusError::NotFound(_))), "{fetched:?}");
    let changes = f.apply(&[&stream], &[&consumer, &other]).await?;
    assert_eq!(changes, [format!("consumer {} on {}: missing, created", consumer.durable, stream.name)]);
    f.publish("a", "1").await?;
    let seen = eventually_received(&mut puller, 2).await?;
    assert_eq!(seen, ["0", "1"], "the message that the other consumer retains, and the new one");
    Ok(())
}

/// Receives and acknowledges, past the errors of a consumer that was just missing, as a supervised loop does.
async fn eventually_received(puller: &mut streams::bus::Puller, count: usize) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    for _ in 0..100 {
        match puller.fetch(count - seen.len(), millis(300)).await {
            Ok(deliveries) => {
                for delivery in deliveries {
                    delivery.ack_confirmed().await?;
                    seen.push(text(&delivery.message).to_owned());
                }
            }
            Err(_) => sleep(millis(50)).await,
        }
        if seen.len() == count {
            return Ok(seen);
        }
    }
    anyhow::bail!("only {seen:?} were delivered")
}

pub(crate) async fn waiting_fetch_fails_when_its_consumer_is_deleted(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    let mut puller = f.pull(&consumer).await?;
    let fetch = tokio::spawn(async move {
        let since = tokio::time::Instant::now();
        (puller.fetch(1, Duration::from_secs(60)).await, since.elapsed())
    });
    sleep(millis(300)).await;
    f.bus.delete_consumer(&stream.name, &consumer.durable).await?;
    let (fetched, waited) = fetch.await?;
    assert!(matches!(fetched, Err(BusError::NotFound(_))), "{fetched:?}");
    assert!(waited < Duration::from_secs(30), "the fetch failed after {waited:?}");
    Ok(())
}

pub(crate) async fn deleted_stream_is_not_found_and_can_be_recreated(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    let consumer = f.consumer(&stream, "C", "a");
    let wanted = topology(&[&stream], &[&consumer]);
    f.bus.apply(&wanted).await?;
    f.publish_numbers("a", 3).await?;
    f.bus.delete_stream(&stream.name).await?;
    let published = f.bus.publish(f.message("a", "x")).await;
    assert!(matches!(published, Err(BusError::NotFound(_))), "{published:?}");
    assert!(matches!(f.bus.stream_info(&stream.name).await, Err(BusError::NotFound(_))));
    assert!(matches!(f.bus.consumer_info(&stream.name, &consumer.durable).await, Err(BusError::NotFound(_))));
    assert_eq!(f.bus.apply(&wanted).await?.len(), 2);
    assert_eq!(f.publish("a", "new").await?.sequence, 1);
    assert_eq!(texts(&receive_and_ack(&mut f.pull(&consumer).await?, 1).await?), ["new"]);
    Ok(())
}

pub(crate) async fn operations_on_missing_things_are_not_found(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    let published = f.bus.publish(f.message("nowhere", "x")).await;
    assert!(matches!(published, Err(BusError::NotFound(_))), "{published:?}");
    let not_found = |result: Result<(), BusError>| assert!(matches!(result, Err(BusError::NotFound(_))), "{result:?}");
    let none = f.name("none");
    not_found(f.bus.stream_info(&none).await.map(drop));
    not_found(f.bus.consumer_info(&stream.name, &none).await.map(drop));
    not_found(f.bus.get_message(&stream.name, 1).await.map(drop));
    not_found(f.bus.get_message(&none, 1).await.map(drop));
    not_found(f.bus.delete_stream(&none).await);
    not_found(f.bus.delete_consumer(&stream.name, &none).await);
    let mut puller = f.pull(&f.consumer(&stream, "none", "a")).await?;
    not_found(puller.fetch(1, millis(500)).await.map(drop));
    Ok(())
}

pub(crate) async fn the_systems_topology_can_be_applied(f: &Fixture) -> Result<()> {
    let alone = f.on_own_server().await?;
    let topology = Topology::rideshare().with_sweeper();
    let result = async {
        let changes = alone.bus.apply(&topology).await?;
        assert_eq!(changes.len(), topology.streams.len() + topology.consumers.len(), "{changes:?}");
        assert_eq!(alone.bus.apply(&topology).await?, Vec::<String>::new());
        assert_eq!(alone.bus.compare(&topology).await?, Vec::<String>::new());
        Ok(())
    };
    let result = result.await;
    alone.stop_server();
    result
}

pub(crate) async fn many_processes_may_apply_at_once(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let consumer = f.consumer(&stream, "C", "a");
    let mut processes = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (bus, wanted) = (f.bus.clone(), topology(&[&stream], &[&consumer]));
        processes.spawn(async move { bus.apply(&wanted).await });
    }
    while let Some(applied) = processes.join_next().await {
        applied??;
    }
    assert_eq!(f.apply(&[&stream], &[&consumer]).await?, Vec::<String>::new());
    Ok(())
}

pub(crate) async fn apply_after_a_restart_recreates_memory_streams(f: &Fixture) -> Result<()> {
    let alone = f.on_own_server().await?;
    let result = apply_after_a_restart(alone).await;
    alone.stop_server();
    result
}

async fn apply_after_a_restart(f: &Fixture) -> Result<()> {
    let in_memory = f.stream("IN_MEMORY", &["in_memory"], Retention::Interest);
    let mut on_disk = f.stream("ON_DISK", &["on_disk"], Retention::Interest);
    on_disk.storage = Storage::File;
    let of_memory = f.consumer(&in_memory, "of_memory", "in_memory");
    let of_file = f.consumer(&on_disk, "of_file", "on_disk");
    let wanted = topology(&[&in_memory, &on_disk], &[&of_memory, &of_file]);
    f.bus.apply(&wanted).await?;
    let (mut first, mut second) = (f.pull(&of_memory).await?, f.pull(&of_file).await?);
    f.publish_numbers("in_memory", 2).await?;
    f.publish_numbers("on_disk", 3).await?;
    receive_and_ack(&mut second, 1).await?;
    f.restart().await?;
    let published = f.bus.publish(f.message("in_memory", "x")).await;
    assert!(matches!(published, Err(BusError::NotFound(_))), "{published:?}");
    let changes = f.bus.apply(&wanted).await?;
    let missing = if f.is_memory() { 4 } else { 2 };
    assert_eq!(changes.len(), missing, "{changes:?}");
    assert!(changes[0].contains(&in_memory.name) && changes[0].ends_with("missing, created"), "{}", changes[0]);
    assert_eq!(f.bus.apply(&wanted).await?, Vec::<String>::new());
    f.publish("in_memory", "new").await?;
    assert_eq!(eventually_received(&mut first, 1).await?, ["new"], "the puller opened before the restart works");
    if f.is_memory() {
        f.publish("on_disk", "new").await?;
        assert_eq!(eventually_received(&mut second, 1).await?, ["new"]);
    } else {
        let mut rest = eventually_received(&mut f.pull(&of_file).await?, 2).await?;
        rest.sort();
        assert_eq!(rest, ["1", "2"], "a file stream retains its messages and its consumers");
    }
    Ok(())
}

pub(crate) async fn ack_of_a_lost_stream_removes_nothing_from_the_recreated_one(f: &Fixture) -> Result<()> {
    if f.is_memory() {
        // The memory bus is lost only together with its process, and so with every delivery.
        return Ok(());
    }
    let alone = f.on_own_server().await?;
    let result = ack_over_a_restart(alone).await;
    alone.stop_server();
    result
}

async fn ack_over_a_restart(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    f.publish_numbers("a", 3).await?;
    let old = receive(&mut f.pull(&consumer).await?, 3).await?;
    f.restart().await?;
    f.apply(&[&stream], &[&consumer]).await?;
    f.publish_numbers("a", 3).await?;
    let new = receive(&mut f.pull(&consumer).await?, 3).await?;
    let sequences = |all: &[streams::Delivery]| all.iter().map(|d| d.message.sequence).collect::<Vec<_>>();
    assert_eq!(sequences(&old), sequences(&new));
    assert!(matches!(old[0].ack().await, Err(BusError::Unavailable(_))));
    assert!(matches!(old[1].terminate().await, Err(BusError::Unavailable(_))));
    assert!(matches!(old[2].retry(Duration::ZERO).await, Err(BusError::Unavailable(_))));
    new[0].ack_confirmed().await?;
    let info = f.bus.consumer_info(&stream.name, &consumer.durable).await?;
    assert_eq!((info.ack_pending, info.pending), (2, 0), "the other two stay pending for the new deliveries");
    Ok(())
}

pub(crate) async fn recreated_stream_or_consumer_has_a_later_creation_time(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a", "b"], Retention::Interest);
    let (first, second) = (f.consumer(&stream, "C", "a"), f.consumer(&stream, "D", "b"));
    let is_missing = |created| matches!(created, Err(BusError::NotFound(_)));
    assert!(is_missing(f.bus.created_at(&stream.name, &[]).await));
    f.apply(&[&stream], &[&first]).await?;
    let created_at = async |durables: &[&str]| f.bus.created_at(&stream.name, durables).await;
    assert!(is_missing(created_at(&[&first.durable, &second.durable]).await));
    tokio::time::sleep(Duration::from_millis(5)).await;
    f.apply(&[&stream], &[&first, &second]).await?;
    let (alone, one, both) = (
        created_at(&[]).await?,
        created_at(&[&first.durable]).await?,
        created_at(&[&first.durable, &second.durable]).await?,
    );
    assert!(alone <= one && one < both, "{alone} {one} {both}");
    f.publish("a", "1").await?;
    assert_eq!(created_at(&[&first.durable, &second.durable]).await?, both, "use changes nothing");
    f.bus.delete_consumer(&stream.name, &first.durable).await?;
    assert!(is_missing(created_at(&[&first.durable]).await));
    tokio::time::sleep(Duration::from_millis(5)).await;
    f.apply(&[&stream], &[&first, &second]).await?;
    let again = created_at(&[&first.durable, &second.durable]).await?;
    assert!(both < again && created_at(&[&second.durable]).await? == both && created_at(&[]).await? == alone);
    f.bus.delete_stream(&stream.name).await?;
    tokio::time::sleep(Duration::from_millis(5)).await;
    f.apply(&[&stream], &[&first, &second]).await?;
    assert!(again < created_at(&[]).await?);
    Ok(())
}
