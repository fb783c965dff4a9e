//! What happens to a message that was delivered `max_deliver` times and never acknowledged: the server gives it up.

use anyhow::{Context, Result};
use serde_json::Value;
use streams::bus::Puller;
use streams::topology::{Consumer, Retention, Stream};
use streams::{BusError, Delivery};

use crate::fixture::*;

async fn one(f: &Fixture, retention: Retention) -> Result<(Stream, Consumer)> {
    let stream = f.stream("S", &["a"], retention);
    let consumer = with_two_deliveries(f, &stream, "C");
    f.apply(&[&stream], &[&consumer]).await?;
    Ok((stream, consumer))
}

fn with_two_deliveries(f: &Fixture, stream: &Stream, name: &str) -> Consumer {
    Consumer { ack_wait: millis(300), max_deliver: 2, ..f.consumer(stream, name, "a") }
}

/// Has one message delivered as often as allowed, and given up. The server notices that only during a pull.
async fn exhaust(f: &Fixture, consumer: &Consumer, puller: &mut Puller) -> Result<Delivery> {
    for deliveries in 1..=2 {
        let delivery = receive_one(puller).await?;
        assert_eq!(delivery.deliveries, deliveries);
        if deliveries == 2 {
            receive_nothing(puller, millis(1_500)).await?;
            f.until_lag(consumer, (0, 0)).await?;
            return Ok(delivery);
        }
    }
    unreachable!("the second delivery returned")
}

async fn stays_stored(f: &Fixture, retention: Retention) -> Result<()> {
    let (stream, consumer) = one(f, retention).await?;
    f.publish("a", "poison").await?;
    let mut puller = f.pull(&consumer).await?;
    exhaust(f, &consumer, &mut puller).await?;
    assert_eq!(f.lag(&consumer).await?, (0, 0), "the lag looks clean");
    assert_eq!(f.stored(&stream).await?, 1, "and the message is stored");
    assert_eq!(text(&f.bus.get_message(&stream.name, 1).await?), "poison");
    f.publish("a", "next").await?;
    assert_eq!(texts(&receive_and_ack(&mut puller, 1).await?), ["next"], "it does not block later messages");
    receive_nothing(&mut puller, millis(800)).await?;
    f.until_stored(&stream, if retention == Retention::Limits { 2 } else { 1 }).await
}

pub(crate) async fn given_up_message_stays_on_an_interest_stream(f: &Fixture) -> Result<()> {
    stays_stored(f, Retention::Interest).await
}

pub(crate) async fn given_up_message_stays_on_a_work_queue(f: &Fixture) -> Result<()> {
    stays_stored(f, Retention::WorkQueue).await
}

pub(crate) async fn given_up_message_stays_on_a_limits_stream(f: &Fixture) -> Result<()> {
    stays_stored(f, Retention::Limits).await
}

pub(crate) async fn retry_of_the_last_delivery_gives_the_message_up(f: &Fixture) -> Result<()> {
    let (stream, consumer) = one(f, Retention::Interest).await?;
    for delay in [0, 200] {
        f.publish("a", "poison").await?;
        let mut puller = f.pull(&consumer).await?;
        for _ in 0..2 {
            receive_one(&mut puller).await?.retry(millis(delay)).await?;
        }
        receive_nothing(&mut puller, millis(1_000)).await?;
        puller.close().await;
        f.until_lag(&consumer, (0, 0)).await?;
    }
    assert_eq!(f.stored(&stream).await?, 2);
    Ok(())
}

pub(crate) async fn message_is_given_up_at_the_next_pull(f: &Fixture) -> Result<()> {
    for delay in [None, Some(0), Some(200)] {
        let stream = f.stream(&format!("S{delay:?}"), &["a"], Retention::Interest);
        let consumer = with_two_deliveries(f, &stream, "C");
        f.apply(&[&stream], &[&consumer]).await?;
        f.publish("a", "poison").await?;
        for _ in 0..2 {
            // Closed after each delivery, so that no pull request is open afterwards.
            let mut puller = f.pull(&consumer).await?;
            let delivery = receive_one(&mut puller).await?;
            puller.close().await;
            if let Some(delay) = delay {
                delivery.retry(millis(delay)).await?;
            }
        }
        sleep(millis(1_000)).await;
        assert_eq!(f.lag(&consumer).await?, (0, 1), "no pull came yet: {delay:?}");
        let mut puller = f.pull(&consumer).await?;
        receive_nothing(&mut puller, millis(300)).await?;
        assert_eq!(f.lag(&consumer).await?, (0, 0));
        puller.close().await;
        assert_eq!(f.stored(&stream).await?, 1);
        f.bus.delete_stream(&stream.name).await?;
    }
    Ok(())
}

pub(crate) async fn with_max_deliver_1_a_message_is_given_up_without_a_pull(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let consumer = Consumer { max_deliver: 1, ..with_two_deliveries(f, &stream, "C") };
    f.apply(&[&stream], &[&consumer]).await?;
    f.publish("a", "poison").await?;
    let mut puller = f.pull(&consumer).await?;
    receive_one(&mut puller).await?;
    puller.close().await;
    f.until_lag(&consumer, (0, 0)).await?;
    let info = f.bus.consumer_info(&stream.name, &consumer.durable).await?;
    assert_eq!(info.redelivered, 0, "with max_deliver 1, none is counted");
    assert_eq!(f.stored(&stream).await?, 1);
    Ok(())
}

pub(crate) async fn acknowledged_last_delivery_is_not_given_up(f: &Fixture) -> Result<()> {
    let (stream, consumer) = one(f, Retention::Interest).await?;
    let mut advisories = f.bus.subscribe(&advisory(&consumer), None).await?;
    f.publish("a", "just in time").await?;
    let mut puller = f.pull(&consumer).await?;
    receive_one(&mut puller).await?;
    receive_and_ack(&mut puller, 1).await?;
    receive_nothing(&mut puller, millis(800)).await?;
    f.until_stored(&stream, 0).await?;
    let none = tokio::time::timeout(millis(200), advisories.next()).await;
    assert!(none.is_err(), "{none:?}");
    Ok(())
}

fn advisory(consumer: &Consumer) -> String {
    format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{}.{}", consumer.stream, consumer.durable)
}

fn check_advisory(body: &[u8], consumer: &Consumer) -> Result<()> {
    let body: Value = serde_json::from_slice(body)?;
    assert_eq!(body["type"], "io.nats.jetstream.advisory.v1.max_deliver");
    assert_eq!(body["stream"], consumer.stream);
    assert_eq!(body["consumer"], consumer.durable);
    assert_eq!((&body["stream_seq"], &body["deliveries"]), (&Value::from(1), &Value::from(2)));
    assert!(body["id"].is_string() && body["timestamp"].is_string());
    Ok(())
}

pub(crate) async fn max_deliveries_advisory_is_sent_once(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, Retention::Interest).await?;
    let mut advisories = f.bus.subscribe(&advisory(&consumer), None).await?;
    f.publish("a", "poison").await?;
    let mut puller = f.pull(&consumer).await?;
    exhaust(f, &consumer, &mut puller).await?;
    let sent = tokio::time::timeout(millis(5_000), advisories.next()).await?.context("a subscription")?;
    check_advisory(&sent.payload, &consumer)?;
    receive_nothing(&mut puller, millis(1_000)).await?;
    let twice = tokio::time::timeout(millis(100), advisories.next()).await;
    assert!(twice.is_err(), "{twice:?}");
    Ok(())
}

pub(crate) async fn stream_captures_advisories(f: &Fixture) -> Result<()> {
    let (stream, consumer) = one(f, Retention::WorkQueue).await?;
    let mut advisories = f.stream("ADVISORIES", &[], Retention::Limits);
    advisories.subjects = vec![format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{}.>", stream.name)];
    let sweeper = f.consumer(&advisories, "sweeper", "");
    f.apply(&[&advisories], &[&sweeper]).await?;
    f.publish("a", "poison").await?;
    exhaust(f, &consumer, &mut f.pull(&consumer).await?).await?;
    let stored = receive_and_ack(&mut f.pull(&sweeper).await?, 1).await?;
    assert_eq!(stored[0].message.subject, advisory(&consumer));
    check_advisory(&stored[0].message.payload, &consumer)
}

pub(crate) async fn release_removes_a_given_up_message(f: &Fixture) -> Result<()> {
    for retention in [Retention::Interest, Retention::WorkQueue] {
        let stream = f.stream(&format!("{retention:?}"), &["a"], retention);
        let consumer = with_two_deliveries(f, &stream, "C");
        f.apply(&[&stream], &[&consumer]).await?;
        f.publish("a", "poison").await?;
        exhaust(f, &consumer, &mut f.pull(&consumer).await?).await?;
        assert_eq!(f.stored(&stream).await?, 1);
        f.bus.release(&stream.name, &consumer.durable, 1).await?;
        f.until_stored(&stream, 0).await?;
        f.bus.release(&stream.name, &consumer.durable, 1).await.context("may be repeated")?;
        assert_eq!(f.bus.consumer_info(&stream.name, &consumer.durable).await?.redelivered, 0);
        f.bus.delete_stream(&stream.name).await?;
    }
    Ok(())
}

pub(crate) async fn release_of_an_undelivered_message_fails(f: &Fixture) -> Result<()> {
    let (stream, consumer) = one(f, Retention::Interest).await?;
    let gone = f.bus.release(&stream.name, &f.name("no_consumer"), 1).await;
    assert!(matches!(gone, Err(BusError::NotFound(_))), "{gone:?}");
    f.publish("a", "never delivered").await?;
    let undelivered = f.bus.release(&stream.name, &consumer.durable, 1).await;
    assert!(matches!(undelivered, Err(BusError::Unavailable(_))), "{undelivered:?}");
    assert_eq!((f.stored(&stream).await?, f.lag(&consumer).await?), (1, (1, 0)), "and nothing happened");
    Ok(())
}

pub(crate) async fn late_termination_removes_a_given_up_message(f: &Fixture) -> Result<()> {
    let (stream, consumer) = one(f, Retention::Interest).await?;
    f.publish("a", "slow").await?;
    let last = exhaust(f, &consumer, &mut f.pull(&consumer).await?).await?;
    last.terminate().await?;
    f.until_stored(&stream, 0).await
}

pub(crate) async fn message_given_up_by_one_consumer_stays_until_released_for_it(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let (stuck, fine) = (with_two_deliveries(f, &stream, "stuck"), f.consumer(&stream, "fine", "a"));
    f.apply(&[&stream], &[&stuck, &fine]).await?;
    f.publish("a", "poison").await?;
    let mut puller = f.pull(&stuck).await?;
    exhaust(f, &stuck, &mut puller).await?;
    // A later message, acknowledged by both consumers, moves the ack floor past it.
    f.publish("a", "next").await?;
    receive_and_ack(&mut puller, 1).await?;
    receive_and_ack(&mut f.pull(&fine).await?, 2).await?;
    f.until_stored(&stream, 1).await?;
    assert_eq!(text(&f.bus.get_message(&stream.name, 1).await?), "poison");
    f.bus.release(&stream.name, &stuck.durable, 1).await?;
    f.until_stored(&stream, 0).await
}

pub(crate) async fn released_message_stays_for_other_consumers(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let (stuck, later) = (with_two_deliveries(f, &stream, "stuck"), f.consumer(&stream, "later", "a"));
    f.apply(&[&stream], &[&stuck, &later]).await?;
    f.publish("a", "poison").await?;
    exhaust(f, &stuck, &mut f.pull(&stuck).await?).await?;
    f.bus.release(&stream.name, &stuck.durable, 1).await?;
    assert_eq!(f.stored(&stream).await?, 1);
    assert_eq!(texts(&receive_and_ack(&mut f.pull(&later).await?, 1).await?), ["poison"]);
    f.until_stored(&stream, 0).await
}

pub(crate) async fn raising_max_deliver_does_not_redeliver(f: &Fixture) -> Result<()> {
    let (stream, mut consumer) = one(f, Retention::Interest).await?;
    f.publish("a", "poison").await?;
    let mut puller = f.pull(&consumer).await?;
    exhaust(f, &consumer, &mut puller).await?;
    consumer.max_deliver = 9;
    f.apply(&[&stream], &[&consumer]).await?;
    receive_nothing(&mut puller, millis(800)).await?;
    assert_eq!(f.stored(&stream).await?, 1);
    Ok(())
}

pub(crate) async fn new_consumer_reads_a_message_that_another_gave_up(f: &Fixture) -> Result<()> {
    let (stream, consumer) = one(f, Retention::Interest).await?;
    f.publish("a", "poison").await?;
    exhaust(f, &consumer, &mut f.pull(&consumer).await?).await?;
    let late = f.consumer(&stream, "late", "a");
    f.apply(&[&stream], &[&late]).await?;
    let taken = receive_and_ack(&mut f.pull(&late).await?, 1).await?;
    assert_eq!((texts(&taken), taken[0].deliveries), (vec!["poison"], 1));
    Ok(())
}
