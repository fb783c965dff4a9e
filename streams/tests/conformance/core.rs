//! Core messages: notices, requests, queue groups.

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

/// All that comes until nothing does for a while.
async fn all(subscription: &mut Subscription) -> Vec<CoreMessage> {
    let mut seen = Vec::new();
    while let Ok(Some(message)) = tokio::time::timeout(millis(400), subscription.next()).await {
        seen.push(message);
    }
    seen
}

pub(crate) async fn notice_reaches_everybody_who_is_subscribed(f: &Fixture) -> Result<()> {
    let subject = f.subject("notice");
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
    assert!(all(&mut other).await.is_empty());
    Ok(())
}

pub(crate) async fn notice_to_nobody_is_no_error(f: &Fixture) -> Result<()> {
    f.bus.publish_core(&f.subject("void"), Bytes::new()).await?;
    let mut late = f.bus.subscribe(&f.subject("void"), None).await?;
    assert!(all(&mut late).await.is_empty(), "it is kept for nobody");
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
        of_group.extend(all(member).await.into_iter().map(|m| m.payload));
    }
    assert_eq!(of_group.len(), 30, "one member gets it");
    of_group.sort();
    of_group.dedup();
    assert_eq!(of_group.len(), 30, "and no other");
    assert_eq!((all(&mut other_group).await.len(), all(&mut alone).await.len()), (30, 30));
    Ok(())
}

pub(crate) async fn member_that_left_gets_nothing(f: &Fixture) -> Result<()> {
    let subject = f.subject("work");
    let mut stays = f.bus.subscribe(&subject, Some("workers")).await?;
    let leaves = f.bus.subscribe(&subject, Some("workers")).await?;
    drop(leaves);
    // Another subscription's round trip: the server knows by then that the member left.
    drop(f.bus.subscribe(&f.subject("other"), None).await?);
    pass(millis(100)).await;
    for _ in 0..20 {
        f.bus.publish_core(&subject, Bytes::from("x")).await?;
    }
    assert_eq!(all(&mut stays).await.len(), 20);
    Ok(())
}

pub(crate) async fn request_gets_its_answer(f: &Fixture) -> Result<()> {
    let subject = f.subject("ask");
    let mut questions = f.bus.subscribe(&subject, Some("answerers")).await?;
    let bus = f.bus.clone();
    let answerer = tokio::spawn(async move {
        for _ in 0..3 {
            let question = next(&mut questions).await?;
            let reply = question.reply.context("a request has a reply subject")?;
            let answer = [&question.payload[..], b"!"].concat();
            bus.publish_core(&reply, answer.into()).await?;
        }
        anyhow::Ok(())
    });
    for word in ["one", "two", "three"] {
        let answer = f.bus.request(&subject, Bytes::from(word), SOON).await?;
        assert_eq!(answer, format!("{word}!"));
    }
    answerer.await?
}

pub(crate) async fn concurrent_requests_get_their_own_answers(f: &Fixture) -> Result<()> {
    let subject = f.subject("ask");
    let mut questions = f.bus.subscribe(&subject, None).await?;
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..10 {
        let (bus, subject) = (f.bus.clone(), subject.clone());
        asking.spawn(async move {
            let answer = bus.request(&subject, Bytes::from(n.to_string()), SOON).await;
            (n.to_string(), answer)
        });
    }
    let mut open = Vec::new();
    while open.len() < 10 {
        open.push(next(&mut questions).await?);
    }
    for question in open.into_iter().rev() {
        f.bus.publish_core(&question.reply.context("a reply subject")?, question.payload).await?;
    }
    while let Some(asked) = asking.join_next().await {
        let (question, answer) = asked?;
        assert_eq!(answer?, question);
    }
    Ok(())
}

pub(crate) async fn request_to_nobody_fails_at_once(f: &Fixture) -> Result<()> {
    let subject = f.subject("ask");
    let since = tokio::time::Instant::now();
    let answer = f.bus.request(&subject, Bytes::new(), Duration::from_secs(60)).await;
    assert!(matches!(&answer, Err(BusError::NoResponders(s)) if *s == subject), "{answer:?}");
    assert!(since.elapsed() < Duration::from_secs(30));
    Ok(())
}

pub(crate) async fn answer_to_no_delivery_finds_nobody(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    for subject in [format!("$JS.ACK.{}", stream.name), format!("$JS.ACK.{}.none.1.1.1.1.0", stream.name)] {
        let answer = f.bus.request(&subject, Bytes::from("+ACK"), SOON).await;
        assert!(matches!(answer, Err(BusError::NoResponders(_))), "{subject}: {answer:?}");
    }
    Ok(())
}

pub(crate) async fn request_without_an_answer_ends_after_its_wait(f: &Fixture) -> Result<()> {
    let subject = f.subject("ask");
    let mut silent = f.bus.subscribe(&subject, None).await?;
    let answer = f.bus.request(&subject, Bytes::from("anybody?"), millis(300)).await;
    assert!(matches!(answer, Err(BusError::Unavailable(_))), "{answer:?}");
    assert_eq!(next(&mut silent).await?.payload, "anybody?");
    Ok(())
}

pub(crate) async fn subscriber_gets_a_copy_of_what_a_stream_stores(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    let mut copies = f.bus.subscribe(&f.subject("a"), None).await?;
    let mut message = f.message("a", "x");
    message.headers.set("Name", "value");
    f.bus.publish(message.clone()).await?;
    let copy = next(&mut copies).await?;
    assert_eq!((copy.subject, copy.headers, copy.payload), (message.subject, message.headers, message.payload));
    assert_eq!(f.held(&stream).await?, 1);
    Ok(())
}

pub(crate) async fn stream_stores_a_notice_on_its_subject(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    let mut copies = f.bus.subscribe(&f.subject("a"), None).await?;
    f.bus.publish_core(&f.subject("a"), Bytes::from("by the way")).await?;
    assert_eq!(next(&mut copies).await?.payload, "by the way");
    assert_eq!(texts(&take_and_ack(&mut f.pull(&consumer).await?, 1).await?), ["by the way"]);
    Ok(())
}

pub(crate) async fn stream_answers_a_request_on_its_subject(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    let answer = f.bus.request(&f.subject("a"), Bytes::from("x"), SOON).await?;
    let answer: serde_json::Value = serde_json::from_slice(&answer)?;
    assert_eq!((&answer["stream"], &answer["seq"]), (&stream.name.into(), &1.into()));
    Ok(())
}

pub(crate) async fn check_finds_nothing_wrong(f: &Fixture) -> Result<()> {
    f.bus.check().await?;
    Ok(())
}
