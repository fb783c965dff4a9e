//! Core messages: subscriptions, requests, queue groups.

use anyhow::{Context, Result};
use bytes::Bytes;
use std::time::Duration;
use streams::BusError;
use streams::bus::{CoreMessage, Subscription};
use streams::topology::Retention;

use crate::fixture::*;

const SOON: Duration = Duration::from_secs(10);

async fn next(subscription: &mut Subscription) -> Result<CoreMessage> {
    tokio::time::timeout(SOON, subscription.next()).await?.context("the subscription ended")
}

/// All messages until none comes for 400 ms.
async fn drain(subscription: &mut Subscription) -> Vec<CoreMessage> {
    let mut seen = Vec::new();
    while let Ok(Some(message)) = tokio::time::timeout(millis(400), subscription.next()).await {
        seen.push(message);
    }
    seen
}

pub(crate) async fn core_message_reaches_every_subscriber(f: &Fixture) -> Result<()> {
    let subject = f.subject("event");
    let mut subscriptions = [f.bus.subscribe(&subject, None).await?, f.bus.subscribe(&f.subject("*"), None).await?, {
        f.bus.subscribe(&f.subject(">"), None).await?
    }];
    let mut other = f.bus.subscribe(&f.subject("other"), None).await?;
    f.bus.publish_core(&subject, Bytes::from("hello")).await?;
    for subscription in &mut subscriptions {
        let message = next(subscription).await?;
        assert_eq!((message.subject.as_str(), &message.payload[..]), (subject.as_str(), &b"hello"[..]));
        assert_eq!(message.reply, None);
        assert!(message.headers.is_empty());
    }
    assert!(drain(&mut other).await.is_empty());
    Ok(())
}

pub(crate) async fn core_message_without_subscribers_is_no_error(f: &Fixture) -> Result<()> {
    f.bus.publish_core(&f.subject("void"), Bytes::new()).await?;
    let mut late = f.bus.subscribe(&f.subject("void"), None).await?;
    assert!(drain(&mut late).await.is_empty(), "a core message is not stored");
    Ok(())
}

pub(crate) async fn concurrent_subscribers_each_get_all_in_order(f: &Fixture) -> Result<()> {
    let subject = f.subject("many");
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let mut subscription = f.bus.subscribe(&subject, None).await?;
        readers.spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..1_000 {
                seen.push(String::from_utf8(next(&mut subscription).await?.payload.to_vec())?);
            }
            anyhow::Ok(seen)
        });
    }
    for n in 0..1_000 {
        f.bus.publish_core(&subject, Bytes::from(n.to_string())).await?;
    }
    while let Some(seen) = readers.join_next().await {
        assert_eq!(seen??, numbers(0..1_000));
    }
    assert_eq!(f.bus.dropped(), 0);
    Ok(())
}

/// More than the client's queue of events takes: each message must be counted, not each event about one.
pub(crate) async fn full_subscription_drops_the_newest_and_counts_each(f: &Fixture) -> Result<()> {
    const SENT: u64 = 100_000;
    let subject = f.subject("flood");
    let mut slow = f.bus.subscribe(&subject, None).await?;
    for n in 0..SENT {
        f.bus.publish_core(&subject, Bytes::from(n.to_string())).await?;
    }
    // All have come once a later subscription has been made.
    drop(f.bus.subscribe(&f.subject("after"), None).await?);
    let dropped = f.bus.dropped();
    assert!(dropped > 10_000, "{dropped}");
    for n in 0..SENT - dropped {
        assert_eq!(next(&mut slow).await?.payload, n.to_string());
    }
    assert!(drain(&mut slow).await.is_empty(), "what was not dropped is there, and what was dropped is not");
    assert_eq!(f.bus.dropped(), dropped);
    Ok(())
}

pub(crate) async fn queue_group_gets_each_message_once(f: &Fixture) -> Result<()> {
    let subject = f.subject("work");
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(f.bus.subscribe(&subject, Some("workers")).await?);
    }
    let mut other_group = f.bus.subscribe(&f.subject("*"), Some("watchers")).await?;
    let mut alone = f.bus.subscribe(&subject, None).await?;
    for n in 0..30 {
        f.bus.publish_core(&subject, Bytes::from(n.to_string())).await?;
    }
    let mut of_group = Vec::new();
    for member in &mut members {
        of_group.extend(drain(member).await.into_iter().map(|m| m.payload));
    }
    assert_eq!(of_group.len(), 30, "one member gets it");
    of_group.sort();
    of_group.dedup();
    assert_eq!(of_group.len(), 30, "and no other");
    assert_eq!((drain(&mut other_group).await.len(), drain(&mut alone).await.len()), (30, 30));
    Ok(())
}

pub(crate) async fn dropped_subscription_gets_nothing(f: &Fixture) -> Result<()> {
    let subject = f.subject("work");
    let mut remaining = f.bus.subscribe(&subject, Some("workers")).await?;
    let dropped = f.bus.subscribe(&subject, Some("workers")).await?;
    drop(dropped);
    // Subscribing takes a round trip, after which the server has also processed the end of the dropped subscription.
    drop(f.bus.subscribe(&f.subject("other"), None).await?);
    sleep(millis(100)).await;
    for _ in 0..20 {
        f.bus.publish_core(&subject, Bytes::from("x")).await?;
    }
    assert_eq!(drain(&mut remaining).await.len(), 20);
    Ok(())
}

pub(crate) async fn request_gets_its_reply(f: &Fixture) -> Result<()> {
    let subject = f.subject("request");
    let mut requests = f.bus.subscribe(&subject, Some("responders")).await?;
    let bus = f.bus.clone();
    let responder = tokio::spawn(async move {
        for _ in 0..3 {
            let request = next(&mut requests).await?;
            let inbox = request.reply.context("a request has a reply subject")?;
            let reply = [&request.payload[..], b"!"].concat();
            bus.publish_core(&inbox, reply.into()).await?;
        }
        anyhow::Ok(())
    });
    for word in ["one", "two", "three"] {
        let reply = f.bus.request(&subject, Bytes::from(word), SOON).await?;
        assert_eq!(reply, format!("{word}!"));
    }
    responder.await?
}

pub(crate) async fn concurrent_requests_get_their_own_replies(f: &Fixture) -> Result<()> {
    let subject = f.subject("request");
    let mut requests = f.bus.subscribe(&subject, None).await?;
    let mut replies = tokio::task::JoinSet::new();
    for n in 0..10 {
        let (bus, subject) = (f.bus.clone(), subject.clone());
        replies.spawn(async move {
            let reply = bus.request(&subject, Bytes::from(n.to_string()), SOON).await;
            (n.to_string(), reply)
        });
    }
    let mut open = Vec::new();
    while open.len() < 10 {
        open.push(next(&mut requests).await?);
    }
    for request in open.into_iter().rev() {
        f.bus.publish_core(&request.reply.context("a reply subject")?, request.payload).await?;
    }
    while let Some(task) = replies.join_next().await {
        let (request, reply) = task?;
        assert_eq!(reply?, request);
    }
    Ok(())
}

pub(crate) async fn request_without_responders_fails_at_once(f: &Fixture) -> Result<()> {
    let subject = f.subject("request");
    let since = tokio::time::Instant::now();
    let reply = f.bus.request(&subject, Bytes::new(), Duration::from_secs(60)).await;
    assert!(matches!(&reply, Err(BusError::NoResponders(s)) if *s == subject), "{reply:?}");
    assert!(since.elapsed() < Duration::from_secs(30));
    Ok(())
}

pub(crate) async fn ack_of_a_missing_consumer_has_no_responders(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    for subject in [format!("$JS.ACK.{}", stream.name), format!("$JS.ACK.{}.none.1.1.1.1.0", stream.name)] {
        let reply = f.bus.request(&subject, Bytes::from("+ACK"), SOON).await;
        assert!(matches!(reply, Err(BusError::NoResponders(_))), "{subject}: {reply:?}");
    }
    Ok(())
}

pub(crate) async fn request_without_a_reply_ends_after_its_wait(f: &Fixture) -> Result<()> {
    let subject = f.subject("request");
    let mut silent = f.bus.subscribe(&subject, None).await?;
    let reply = f.bus.request(&subject, Bytes::from("anybody?"), millis(300)).await;
    assert!(matches!(reply, Err(BusError::Unavailable(_))), "{reply:?}");
    assert_eq!(next(&mut silent).await?.payload, "anybody?");
    Ok(())
}

pub(crate) async fn request_to_all_gets_every_reply_until_it_is_quiet(f: &Fixture) -> Result<()> {
    let subject = f.subject("request");
    let (began, quiet) = (tokio::time::Instant::now(), millis(400));
    let ask = || f.bus.request_all(&subject, Bytes::from("who?"), SOON, quiet);
    assert!(matches!(ask().await, Err(BusError::NoResponders(s)) if s == subject));
    let mut responders = tokio::task::JoinSet::new();
    for n in 0..3 {
        let (bus, mut requests) = (f.bus.clone(), f.bus.subscribe(&subject, None).await?);
        responders.spawn(async move {
            let request = next(&mut requests).await?;
            // One that is asked and says nothing.
            if n > 0 {
                bus.publish_core(&request.reply.context("a reply subject")?, request.payload).await?;
            }
            anyhow::Ok(requests)
        });
    }
    assert_eq!(ask().await?, ["who?", "who?"]);
    assert!(began.elapsed() < SOON);
    let subscriptions: Vec<_> = responders.join_all().await;
    let short = f.bus.request_all(&subject, Bytes::from("nobody?"), millis(300), quiet).await?;
    assert!(short.is_empty() && subscriptions.iter().all(Result::is_ok));
    Ok(())
}

pub(crate) async fn subscriber_gets_a_copy_of_a_published_message(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    let mut copies = f.bus.subscribe(&f.subject("a"), None).await?;
    let mut message = f.message("a", "x");
    message.headers.set("Name", "value");
    f.bus.publish(message.clone()).await?;
    let copy = next(&mut copies).await?;
    assert_eq!((copy.subject, copy.headers, copy.payload), (message.subject, message.headers, message.payload));
    assert_eq!(f.stored(&stream).await?, 1);
    Ok(())
}

pub(crate) async fn stream_stores_a_core_message_on_its_subject(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    let mut copies = f.bus.subscribe(&f.subject("a"), None).await?;
    f.bus.publish_core(&f.subject("a"), Bytes::from("by the way")).await?;
    assert_eq!(next(&mut copies).await?.payload, "by the way");
    assert_eq!(texts(&receive_and_ack(&mut f.pull(&consumer).await?, 1).await?), ["by the way"]);
    Ok(())
}

pub(crate) async fn stream_acknowledges_a_request_on_its_subject(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    let reply = f.bus.request(&f.subject("a"), Bytes::from("x"), SOON).await?;
    let reply: serde_json::Value = serde_json::from_slice(&reply)?;
    assert_eq!((&reply["stream"], &reply["seq"]), (&stream.name.into(), &1.into()));
    Ok(())
}

pub(crate) async fn check_succeeds_on_a_working_bus(f: &Fixture) -> Result<()> {
    f.bus.check().await?;
    Ok(())
}
