//! What only the memory bus promises: its clock, its bound of messages, its determinism.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use streams::bus::ReplayStart;
use streams::memory::MemoryBus;
use streams::topology::{Consumer, Discard, Retention, Storage, Stream};
use streams::{Bus, BusError, Headers, Message};
use tokio::time::Instant;

use crate::fixture::{receive, receive_nothing, receive_one, sleep, started_at, text, texts, topology};

fn bus(queue_size: usize) -> Bus {
    Bus::Memory(MemoryBus::new(started_at(), queue_size))
}

fn stream(retention: Retention) -> Stream {
    Stream {
        name: "S".to_owned(),
        subjects: vec!["a".to_owned()],
        retention,
        storage: Storage::Memory,
        discard: Discard::New,
        max_age: Duration::from_secs(3_600),
        max_bytes: 1 << 30,
        duplicate_window: Duration::from_secs(120),
    }
}

fn consumer(name: &str) -> Consumer {
    Consumer {
        stream: "S".to_owned(),
        durable: name.to_owned(),
        filter: "a".to_owned(),
        ack_wait: Duration::from_secs(30),
        max_deliver: 5,
        max_ack_pending: 100,
        backoff: Vec::new(),
    }
}

fn message(payload: impl Into<Bytes>) -> Message {
    Message { subject: "a".to_owned(), headers: Headers::default(), payload: payload.into() }
}

#[tokio::test(start_paused = true)]
async fn wall_time_is_the_start_plus_tokios_clock() -> Result<()> {
    let bus = bus(10);
    bus.apply(&topology(&[&stream(Retention::Limits)], &[])).await?;
    bus.publish(message("0")).await?;
    tokio::time::advance(Duration::from_secs(90)).await;
    bus.publish(message("1")).await?;
    assert_eq!(bus.get_message("S", 1).await?.stored_at, started_at());
    assert_eq!(bus.get_message("S", 2).await?.stored_at, started_at() + Duration::from_secs(90));
    let mut replay = bus.replay("S", None, ReplayStart::Time(started_at() + Duration::from_secs(1))).await?;
    assert_eq!(text(&replay.next(Duration::ZERO).await?.context("the second")?), "1");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn publisher_waits_for_room_and_gets_it() -> Result<()> {
    let bus = bus(2);
    bus.apply(&topology(&[&stream(Retention::WorkQueue)], &[&consumer("C")])).await?;
    let publisher = {
        let bus = bus.clone();
        tokio::spawn(async move {
            let since = Instant::now();
            let results = bus.publish_all((0..3).map(|n| message(n.to_string())).collect()).await;
            (results, since.elapsed())
        })
    };
    sleep(Duration::from_secs(2)).await;
    assert_eq!(bus.stream_info("S").await?.messages, 2);
    receive_one(&mut bus.pull(&consumer("C")).await?).await?.ack().await?;
    let (results, waited) = publisher.await?;
    assert!(results.into_iter().all(|r| r.is_ok()));
    assert_eq!(waited, Duration::from_secs(2));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn publisher_is_refused_when_no_room_comes() -> Result<()> {
    let bus = bus(2);
    bus.apply(&topology(&[&stream(Retention::Limits)], &[])).await?;
    let since = Instant::now();
    let results = bus.publish_all((0..5).map(|n| message(n.to_string())).collect()).await;
    let kinds: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(kinds, [true, true, false, false, false]);
    assert!(matches!(results[4], Err(BusError::Full(_))), "{:?}", results[4]);
    assert_eq!(since.elapsed(), Duration::from_secs(5), "one wait for all");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn stream_with_discard_old_removes_the_oldest_at_the_queue_size() -> Result<()> {
    let bus = bus(3);
    let old = Stream { discard: Discard::Old, ..stream(Retention::Limits) };
    bus.apply(&topology(&[&old], &[&consumer("C")])).await?;
    for n in 0..5 {
        bus.publish(message(n.to_string())).await?;
    }
    assert_eq!(texts(&receive(&mut bus.pull(&consumer("C")).await?, 3).await?), ["2", "3", "4"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn each_ack_wait_ends_on_its_own() -> Result<()> {
    let bus = bus(10);
    bus.apply(&topology(&[&stream(Retention::Limits)], &[&consumer("C")])).await?;
    bus.publish_all(vec![message("0"), message("1")]).await;
    let mut puller = bus.pull(&consumer("C")).await?;
    let since = Instant::now();
    receive_one(&mut puller).await?;
    sleep(Duration::from_secs(10)).await;
    receive_one(&mut puller).await?;
    for (payload, seconds) in [("0", 30), ("1", 40)] {
        let again = puller.fetch(1, Duration::from_secs(100)).await?;
        assert_eq!((texts(&again), since.elapsed().as_secs()), (vec![payload], seconds));
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn queue_group_members_take_turns() -> Result<()> {
    let bus = bus(10);
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(bus.subscribe("work", Some("workers")).await?);
    }
    for n in 0..9 {
        bus.publish_core("work", Bytes::from(n.to_string())).await?;
    }
    for (first, member) in members.iter_mut().enumerate() {
        for n in [first, first + 3, first + 6] {
            assert_eq!(member.next().await.context("a turn")?.payload, n.to_string());
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn replay_ends_with_its_stream() -> Result<()> {
    let bus = bus(10);
    let wanted = topology(&[&stream(Retention::Limits)], &[]);
    bus.apply(&wanted).await?;
    bus.publish(message("0")).await?;
    let mut replay = bus.replay("S", None, ReplayStart::Sequence(1)).await?;
    assert!(replay.next(Duration::ZERO).await?.is_some());
    bus.delete_stream("S").await?;
    assert!(matches!(replay.next(Duration::ZERO).await, Err(BusError::NotFound(_))));
    bus.apply(&wanted).await?;
    bus.publish(message("another 0")).await?;
    bus.publish(message("another 1")).await?;
    assert!(
        matches!(replay.next(Duration::ZERO).await, Err(BusError::NotFound(_))),
        "in the recreated stream, the same sequences are other messages"
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn advisory_is_sent_without_an_operation() -> Result<()> {
    let bus = bus(10);
    let given_up = Consumer { max_deliver: 1, ..consumer("C") };
    let advisories =
        Stream { name: "ADVISORIES".to_owned(), subjects: vec!["$JS.EVENT.>".to_owned()], ..stream(Retention::Limits) };
    let sweeper = Consumer { stream: advisories.name.clone(), filter: String::new(), ..consumer("sweeper") };
    bus.apply(&topology(&[&stream(Retention::Interest), &advisories], &[&given_up, &sweeper])).await?;
    bus.publish(message("poison")).await?;
    let mut sweep = bus.pull(&sweeper).await?;
    receive_nothing(&mut sweep, Duration::from_secs(60)).await?;
    let since = Instant::now();
    receive_one(&mut bus.pull(&given_up).await?).await?;
    // Only the sweeper pulls now, and its fetch began to wait before anything was due.
    let advisories = sweep.fetch(1, Duration::from_secs(3_600)).await?;
    assert_eq!(advisories.len(), 1);
    assert_eq!(since.elapsed().as_secs(), 30, "as soon as the ack wait is over");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn advisory_wakes_a_waiting_subscription() -> Result<()> {
    let bus = bus(10);
    let quick = Consumer { max_deliver: 1, ack_wait: Duration::from_secs(1), ..consumer("C") };
    bus.apply(&topology(&[&stream(Retention::Interest)], &[&quick])).await?;
    let mut advisories = bus.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.C", None).await?;
    let since = Instant::now();
    let waiter = tokio::spawn(async move { (advisories.next().await, Instant::now()) });
    sleep(Duration::from_secs(10)).await;
    bus.publish(message("poison")).await?;
    receive_one(&mut bus.pull(&quick).await?).await?;
    let (advisory, at) = waiter.await?;
    assert!(advisory.is_some());
    assert_eq!((at - since).as_secs(), 11);
    Ok(())
}

/// Two consumers with two workers each, of which some retry or do not answer, while time passes.
async fn transcript() -> Result<Vec<String>> {
    let bus = bus(1_000);
    let (one, two) = (consumer("C1"), Consumer { ack_wait: Duration::from_secs(3), ..consumer("C2") });
    bus.apply(&topology(&[&stream(Retention::Interest)], &[&one, &two])).await?;
    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    for consumer in [one, two] {
        for worker in 0..2 {
            let (mut puller, sender) = (bus.pull(&consumer).await?, sender.clone());
            tasks.spawn(async move {
                while let Ok(deliveries) = puller.fetch(3, Duration::from_secs(20)).await {
                    if deliveries.is_empty() {
                        return;
                    }
                    for d in deliveries {
                        let (sequence, deliveries) = (d.message.sequence, d.deliveries);
                        let _ = sender.send(format!("{} {worker} {sequence} {deliveries}", d.consumer));
                        sleep(Duration::from_millis(70 * (sequence % 3))).await;
                        let _ = match (sequence + deliveries) % 5 {
                            0 => d.retry(Duration::from_millis(sequence * 10)).await,
                            1 if d.consumer == "C2" => Ok(()),
                            _ => d.ack().await,
                        };
                    }
                }
            });
        }
    }
    for n in 0..40 {
        bus.publish(message(n.to_string())).await?;
        sleep(Duration::from_millis(25)).await;
    }
    while tasks.join_next().await.is_some() {}
    drop(sender);
    let mut all = Vec::new();
    while let Some(line) = lines.recv().await {
        all.push(line);
    }
    all.push(format!("{:?}", bus.stream_info("S").await?));
    Ok(all)
}

#[test]
fn same_run_twice_gives_the_same_transcript() -> Result<()> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        runtime.block_on(transcript())
    };
    let first = run()?;
    assert!(first.len() > 80, "{}", first.len());
    assert_eq!(first, run()?);
    Ok(())
}
