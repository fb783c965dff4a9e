//! Pulling, acknowledging, redelivery.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use streams::topology::{Consumer, MESSAGE_MAX, Retention, Stream};

use crate::fixture::*;

/// Creates a limits stream `S` of `a` and `b` and a consumer `C` of `a`, whose configuration `with` changes.
async fn one(f: &Fixture, with: impl FnOnce(&mut Consumer)) -> Result<(Stream, Consumer)> {
    let stream = f.stream("S", &["a", "b"], Retention::Limits);
    let mut consumer = f.consumer(&stream, "C", "a");
    with(&mut consumer);
    f.apply(&[&stream], &[&consumer]).await?;
    Ok((stream, consumer))
}

pub(crate) async fn deliveries_come_in_stream_order_with_their_metadata(f: &Fixture) -> Result<()> {
    let (stream, consumer) = one(f, |_| ()).await?;
    for payload in ["0", "1", "2"] {
        f.publish("a", payload).await?;
    }
    let mut puller = f.pull(&consumer).await?;
    let taken = receive(&mut puller, 3).await?;
    assert_eq!(texts(&taken), ["0", "1", "2"]);
    for (index, delivery) in taken.iter().enumerate() {
        assert_eq!(delivery.message.sequence, index as u64 + 1);
        assert_eq!(delivery.message.subject, f.subject("a"));
        assert_eq!((&delivery.stream, &delivery.consumer), (&stream.name, &consumer.durable));
        assert_eq!(delivery.deliveries, 1);
        assert_eq!(delivery.pending, 2 - index as u64);
    }
    assert!(taken.windows(2).all(|pair| pair[0].message.stored_at <= pair[1].message.stored_at));
    Ok(())
}

pub(crate) async fn headers_are_delivered_as_published(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    let mut message = f.message("a", "x");
    for (name, value) in [("traceparent", "00-1-2-01"), ("Ce-Type", "user.beacon"), ("empty", ""), ("text", "ü: a, b")]
    {
        message.headers.set(name, value);
    }
    message.headers.add("text", "twice");
    f.bus.publish(message.clone()).await?;
    let delivery = receive_one(&mut f.pull(&consumer).await?).await?;
    let headers = &delivery.message.headers;
    let mut sorted: Vec<_> = message.headers.iter().collect();
    sorted.sort();
    assert_eq!(headers.iter().collect::<Vec<_>>(), sorted, "both buses hand them out in this order");
    assert_eq!(headers.find("ce-type"), Some("user.beacon"), "names are compared without case");
    Ok(())
}

pub(crate) async fn bodies_may_be_empty_or_large(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    let bodies = [Vec::new(), vec![0_u8, 255, 10, 13], vec![7; 64 << 10]];
    for body in &bodies {
        f.bus.publish(f.message("a", body.clone())).await?;
    }
    let taken = receive(&mut f.pull(&consumer).await?, 3).await?;
    for (delivery, body) in taken.iter().zip(&bodies) {
        assert_eq!(delivery.message.payload, body);
    }
    Ok(())
}

pub(crate) async fn message_above_the_size_limit_is_refused(f: &Fixture) -> Result<()> {
    let (stream, _) = one(f, |_| ()).await?;
    let largest = MESSAGE_MAX as usize;
    f.bus.publish(f.message("a", vec![7; largest])).await?;
    let mut with_headers = f.message("a", vec![7; largest]);
    with_headers.headers.set("Name", "value");
    for message in [f.message("a", vec![7; largest + 1]), with_headers, f.message("a", vec![7; (1 << 20) + 1])] {
        let refused = f.bus.publish(message).await;
        assert!(matches!(refused, Err(streams::BusError::Refused(_))), "{refused:?}");
    }
    assert_eq!(f.stored(&stream).await?, 1);
    Ok(())
}

pub(crate) async fn invalid_subjects_are_refused(f: &Fixture) -> Result<()> {
    let (stream, _) = one(f, |_| ()).await?;
    for subject in ["", "two words"] {
        let mut message = f.message("a", "x");
        message.subject = subject.to_owned();
        let refused = f.bus.publish(message).await;
        assert!(matches!(refused, Err(streams::BusError::Refused(_))), "`{subject}`: {refused:?}");
    }
    assert_eq!(f.stored(&stream).await?, 0);
    Ok(())
}

pub(crate) async fn acknowledged_message_is_not_redelivered(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |c| c.ack_wait = millis(400)).await?;
    f.publish_numbers("a", 2).await?;
    let mut puller = f.pull(&consumer).await?;
    receive_and_ack(&mut puller, 2).await?;
    receive_nothing(&mut puller, millis(1_000)).await?;
    let info = f.bus.consumer_info(&consumer.stream, &consumer.durable).await?;
    assert_eq!((info.pending, info.ack_pending, info.redelivered), (0, 0, 0));
    assert_eq!((info.ack_floor, info.delivered), (2, 2));
    Ok(())
}

pub(crate) async fn ack_without_confirmation_counts_too(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    f.publish_numbers("a", 50).await?;
    for delivery in receive(&mut f.pull(&consumer).await?, 50).await? {
        delivery.ack().await?;
    }
    f.until_lag(&consumer, (0, 0)).await
}

pub(crate) async fn ack_floor_waits_for_the_oldest_pending_message(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    f.publish_numbers("a", 4).await?;
    let taken = receive(&mut f.pull(&consumer).await?, 4).await?;
    let floor =
        async || -> Result<u64> { Ok(f.bus.consumer_info(&consumer.stream, &consumer.durable).await?.ack_floor) };
    for (index, expected) in [(1, 0), (2, 0), (0, 3), (3, 4)] {
        taken[index].ack_confirmed().await?;
        assert_eq!(floor().await?, expected, "after acknowledging sequence {}", index + 1);
    }
    Ok(())
}

pub(crate) async fn unacknowledged_message_is_redelivered_after_the_ack_wait(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |c| c.ack_wait = millis(400)).await?;
    f.publish_numbers("a", 1).await?;
    let mut puller = f.pull(&consumer).await?;
    for deliveries in 1..=3 {
        let delivery = receive_one(&mut puller).await?;
        assert_eq!((delivery.message.sequence, delivery.deliveries), (1, deliveries));
    }
    let info = f.bus.consumer_info(&consumer.stream, &consumer.durable).await?;
    assert_eq!((info.pending, info.ack_pending, info.redelivered), (0, 1, 1));
    Ok(())
}

pub(crate) async fn retry_redelivers_after_its_delay(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    f.publish_numbers("a", 1).await?;
    let mut puller = f.pull(&consumer).await?;
    let first = receive_one(&mut puller).await?;
    let since = tokio::time::Instant::now();
    first.retry(millis(1_000)).await?;
    let second = receive_one(&mut puller).await?;
    assert_eq!(second.deliveries, 2);
    ensure!(since.elapsed() >= millis(900), "redelivered after {:?}", since.elapsed());
    ensure!(since.elapsed() < consumer.ack_wait, "redelivered only after the ack wait");
    Ok(())
}

pub(crate) async fn retry_without_delay_redelivers_at_once(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    f.publish_numbers("a", 1).await?;
    let mut puller = f.pull(&consumer).await?;
    for deliveries in 1..=4 {
        let delivery = receive_one(&mut puller).await?;
        assert_eq!(delivery.deliveries, deliveries);
        delivery.retry(Duration::ZERO).await?;
    }
    Ok(())
}

pub(crate) async fn redeliveries_come_before_new_messages(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    f.publish_numbers("a", 6).await?;
    let mut puller = f.pull(&consumer).await?;
    let mut taken = Vec::new();
    // One message a pull request, so that at most the fourth message is already on its way when the puller closes.
    for _ in 0..3 {
        taken.push(receive_one(&mut puller).await?);
    }
    puller.close().await;
    taken[2].retry(Duration::ZERO).await?;
    taken[0].retry(Duration::ZERO).await?;
    let again = if f.is_memory() { 2 } else { 3 };
    eventually("the redelivery queue", || async {
        let info = f.bus.consumer_info(&consumer.stream, &consumer.durable).await?;
        Ok(info.ack_pending >= 3)
    })
    .await?;
    sleep(millis(200)).await;
    let taken = receive(&mut f.pull(&consumer).await?, 6 - 1).await?;
    let deliveries: Vec<u64> = taken.iter().map(|d| d.deliveries).collect();
    let sequences: Vec<u64> = taken.iter().map(|d| d.message.sequence).filter(|s| [1, 3].contains(s)).collect();
    assert_eq!(sequences, [3, 1], "in the order of the redelivery queue");
    let older = deliveries.iter().take_while(|d| **d > 1).count();
    assert!((2..=again).contains(&older) && deliveries[older..].iter().all(|d| *d == 1), "{deliveries:?}");
    Ok(())
}

pub(crate) async fn terminated_message_is_not_redelivered(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |c| c.ack_wait = millis(400)).await?;
    f.publish_numbers("a", 1).await?;
    let mut puller = f.pull(&consumer).await?;
    receive_one(&mut puller).await?.terminate().await?;
    receive_nothing(&mut puller, millis(1_000)).await?;
    assert_eq!(f.lag(&consumer).await?, (0, 0));
    Ok(())
}

pub(crate) async fn in_progress_restarts_the_ack_wait(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |c| c.ack_wait = millis(1_500)).await?;
    f.publish_numbers("a", 1).await?;
    let mut puller = f.pull(&consumer).await?;
    let delivery = receive_one(&mut puller).await?;
    for _ in 0..5 {
        receive_nothing(&mut puller, millis(500)).await?;
        delivery.in_progress().await?;
    }
    delivery.ack_confirmed().await?;
    receive_nothing(&mut puller, millis(1_600)).await?;
    assert_eq!(f.bus.consumer_info(&consumer.stream, &consumer.durable).await?.redelivered, 0);
    Ok(())
}

pub(crate) async fn ack_of_an_older_delivery_counts(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |c| c.ack_wait = millis(600)).await?;
    f.publish_numbers("a", 1).await?;
    let mut puller = f.pull(&consumer).await?;
    let first = receive_one(&mut puller).await?;
    let second = receive_one(&mut puller).await?;
    assert_eq!((first.deliveries, second.deliveries), (1, 2));
    first.ack_confirmed().await?;
    receive_nothing(&mut puller, millis(1_500)).await?;
    assert_eq!(f.lag(&consumer).await?, (0, 0));
    Ok(())
}

pub(crate) async fn second_acknowledgement_changes_nothing(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    f.publish_numbers("a", 1).await?;
    let mut puller = f.pull(&consumer).await?;
    let delivery = receive_one(&mut puller).await?;
    delivery.ack_confirmed().await?;
    delivery.retry(Duration::ZERO).await?;
    delivery.in_progress().await?;
    delivery.ack_confirmed().await?;
    delivery.terminate().await?;
    receive_nothing(&mut puller, millis(300)).await?;
    assert_eq!(f.lag(&consumer).await?, (0, 0));
    Ok(())
}

pub(crate) async fn max_ack_pending_pauses_delivery(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |c| c.max_ack_pending = 3).await?;
    f.publish_numbers("a", 5).await?;
    let mut puller = f.pull(&consumer).await?;
    let taken = receive(&mut puller, 3).await?;
    receive_nothing(&mut puller, millis(400)).await?;
    assert_eq!(f.lag(&consumer).await?, (2, 3));
    taken[1].ack_confirmed().await?;
    let fourth = receive_one(&mut puller).await?;
    assert_eq!(text(&fourth.message), "3");
    receive_nothing(&mut puller, millis(400)).await?;
    taken[0].terminate().await?;
    assert_eq!(text(&receive_one(&mut puller).await?.message), "4");
    Ok(())
}

pub(crate) async fn waiting_fetch_wakes_when_an_ack_makes_room(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |c| c.max_ack_pending = 1).await?;
    f.publish_numbers("a", 2).await?;
    let mut puller = f.pull(&consumer).await?;
    let first = receive_one(&mut puller).await?;
    let fetch = tokio::spawn(async move {
        let since = tokio::time::Instant::now();
        let fetched = puller.fetch(1, Duration::from_secs(60)).await;
        (fetched, since.elapsed())
    });
    sleep(millis(300)).await;
    first.ack().await?;
    let (fetched, waited) = fetch.await?;
    assert_eq!(texts(&fetched?), ["1"]);
    ensure!(waited < Duration::from_secs(25), "fetched after {waited:?}");
    Ok(())
}

pub(crate) async fn redelivery_is_possible_at_max_ack_pending(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |c| c.max_ack_pending = 2).await?;
    f.publish_numbers("a", 3).await?;
    let mut puller = f.pull(&consumer).await?;
    let taken = receive(&mut puller, 2).await?;
    taken[1].retry(Duration::ZERO).await?;
    let again = receive_one(&mut puller).await?;
    assert_eq!((text(&again.message), again.deliveries), ("1", 2));
    receive_nothing(&mut puller, millis(300)).await
}

pub(crate) async fn waiting_fetch_wakes_when_a_message_comes(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    let mut puller = f.pull(&consumer).await?;
    let fetch = tokio::spawn(async move {
        let since = tokio::time::Instant::now();
        let fetched = puller.fetch(10, Duration::from_secs(60)).await;
        (fetched, since.elapsed())
    });
    sleep(millis(300)).await;
    f.publish_numbers("a", 1).await?;
    let (fetched, waited) = fetch.await?;
    assert_eq!(texts(&fetched?), ["0"]);
    ensure!(waited < Duration::from_secs(30), "fetched after {waited:?}");
    Ok(())
}

pub(crate) async fn fetch_without_messages_ends_after_its_wait(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    f.publish_numbers("b", 1).await?;
    let mut puller = f.pull(&consumer).await?;
    assert!(puller.fetch(5, Duration::ZERO).await?.is_empty());
    let since = tokio::time::Instant::now();
    assert!(puller.fetch(5, millis(500)).await?.is_empty());
    ensure!(since.elapsed() >= millis(450), "fetch returned after {:?}", since.elapsed());
    Ok(())
}

pub(crate) async fn fetch_returns_at_most_max_messages(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    f.publish_numbers("a", 10).await?;
    let mut puller = f.pull(&consumer).await?;
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let fetched = puller.fetch(4, Duration::from_secs(5)).await?;
        ensure!((1..=4).contains(&fetched.len()), "{} came", fetched.len());
        seen.extend(fetched);
    }
    assert_eq!(texts(&seen), numbers(0..10));
    Ok(())
}

pub(crate) async fn two_pullers_share_the_work(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    let mut pullers = [f.pull(&consumer).await?, f.pull(&consumer).await?];
    f.publish_numbers("a", 200).await?;
    let mut seen = Vec::new();
    while seen.len() < 200 {
        let before = seen.len();
        for puller in &mut pullers {
            for delivery in puller.fetch(10, Duration::from_secs(1)).await? {
                delivery.ack_confirmed().await?;
                seen.push(delivery.message.sequence);
            }
        }
        ensure!(seen.len() > before, "{} of 200 came", seen.len());
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=200).collect::<Vec<u64>>(), "each once");
    f.until_lag(&consumer, (0, 0)).await
}

pub(crate) async fn two_waiting_pullers_both_get_work(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut puller = f.pull(&consumer).await?;
        waiting.push(tokio::spawn(async move { receive_one(&mut puller).await }));
    }
    sleep(millis(300)).await;
    f.publish_numbers("a", 2).await?;
    let mut seen = Vec::new();
    for task in waiting {
        seen.push(task.await??.message.sequence);
    }
    seen.sort_unstable();
    assert_eq!(seen, [1, 2]);
    Ok(())
}

pub(crate) async fn closing_a_puller_has_its_unfetched_messages_redelivered(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    f.publish_numbers("a", 10).await?;
    let mut puller = f.pull(&consumer).await?;
    receive_and_ack(&mut puller, 5).await?;
    puller.close().await;
    let mut rest = receive_and_ack(&mut f.pull(&consumer).await?, 5).await?;
    rest.sort_by_key(|d| d.message.sequence);
    assert_eq!(texts(&rest), numbers(5..10));
    Ok(())
}

pub(crate) async fn filter_selects_by_subject(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["trip.>", "user.*"], Retention::Limits);
    let exact = f.consumer(&stream, "exact", "user.ann");
    let star = f.consumer(&stream, "star", "trip.*.end");
    let rest = f.consumer(&stream, "rest", "trip.>");
    let all = f.consumer(&stream, "all", "");
    f.apply(&[&stream], &[&exact, &star, &rest, &all]).await?;
    for subject in ["user.ann", "trip.1", "user.bob", "trip.1.end", "trip.2.start", "trip.1.2.end"] {
        f.bus.publish(f.message(subject, subject)).await?;
    }
    for (consumer, wanted) in [
        (&exact, vec!["user.ann"]),
        (&star, vec!["trip.1.end"]),
        (&rest, vec!["trip.1", "trip.1.end", "trip.2.start", "trip.1.2.end"]),
        (&all, vec!["user.ann", "trip.1", "user.bob", "trip.1.end", "trip.2.start", "trip.1.2.end"]),
    ] {
        assert_eq!(f.lag(consumer).await?, (wanted.len() as u64, 0), "{}", consumer.durable);
        let taken = receive_and_ack(&mut f.pull(consumer).await?, wanted.len()).await?;
        assert_eq!(texts(&taken), wanted);
        assert_eq!(f.lag(consumer).await?, (0, 0), "{}", consumer.durable);
    }
    Ok(())
}

pub(crate) async fn backoff_sets_the_ack_wait_and_not_the_retry_delay(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |c| {
        c.max_deliver = 10;
        c.backoff = vec![millis(400), Duration::from_secs(20)];
        c.ack_wait = millis(400);
    })
    .await?;
    f.publish_numbers("a", 1).await?;
    let mut puller = f.pull(&consumer).await?;
    receive_one(&mut puller).await?;
    let second = receive_one(&mut puller).await?;
    assert_eq!(second.deliveries, 2);
    receive_nothing(&mut puller, millis(1_200)).await?;
    second.retry(Duration::ZERO).await?;
    let third = receive_one(&mut puller).await?;
    assert_eq!(third.deliveries, 3);
    third.ack_confirmed().await?;
    Ok(())
}

pub(crate) async fn consumer_without_a_puller_misses_nothing(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    let mut puller = f.pull(&consumer).await?;
    f.publish_numbers("a", 1).await?;
    receive_and_ack(&mut puller, 1).await?;
    puller.close().await;
    f.publish_numbers("a", 20).await?;
    sleep(f.long()).await;
    f.publish("a", "20").await?;
    let taken = receive_and_ack(&mut f.pull(&consumer).await?, 21).await?;
    assert_eq!(texts(&taken), numbers(0..21));
    f.until_stored(&stream, 0).await
}

pub(crate) async fn consumers_are_independent(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    let (quick, stuck) = (f.consumer(&stream, "quick", "a"), f.consumer(&stream, "stuck", "a"));
    f.apply(&[&stream], &[&quick, &stuck]).await?;
    f.publish_numbers("a", 5).await?;
    let held = receive(&mut f.pull(&stuck).await?, 2).await?;
    assert_eq!(texts(&receive_and_ack(&mut f.pull(&quick).await?, 5).await?), numbers(0..5));
    assert_eq!(f.lag(&quick).await?, (0, 0));
    let (pending, ack_pending) = f.lag(&stuck).await?;
    assert_eq!(pending + ack_pending, 5);
    held[0].ack_confirmed().await.context("the other consumer's acknowledgements do not count here")
}

pub(crate) async fn a_thousand_messages_reach_both_consumers_in_order(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let consumers = [f.consumer(&stream, "C1", "a"), f.consumer(&stream, "C2", "a")];
    f.apply(&[&stream], &[&consumers[0], &consumers[1]]).await?;
    let messages = (0..1_000).map(|n| f.message("a", n.to_string())).collect();
    for (index, published) in f.bus.publish_all(messages).await.into_iter().enumerate() {
        let published = published?;
        assert_eq!((published.sequence, published.duplicate), (index as u64 + 1, false));
    }
    for consumer in &consumers {
        let mut puller = f.pull(consumer).await?;
        let mut seen = Vec::new();
        while seen.len() < 1_000 {
            for delivery in receive(&mut puller, 100).await? {
                delivery.ack().await?;
                seen.push(text(&delivery.message).to_owned());
            }
        }
        assert_eq!(seen, numbers(0..1_000));
    }
    f.until_stored(&stream, 0).await
}

pub(crate) async fn order_of_each_publisher_is_preserved(f: &Fixture) -> Result<()> {
    let (_, consumer) = one(f, |_| ()).await?;
    let mut publishers = tokio::task::JoinSet::new();
    for name in ["x", "y", "z"] {
        let bus = f.bus.clone();
        let messages: Vec<_> = (0..30).map(|n| f.message("a", format!("{name}{n}"))).collect();
        publishers.spawn(async move {
            for message in messages {
                bus.publish(message).await?;
            }
            Ok::<_, streams::BusError>(())
        });
    }
    while let Some(done) = publishers.join_next().await {
        done??;
    }
    let taken = receive(&mut f.pull(&consumer).await?, 90).await?;
    for name in ["x", "y", "z"] {
        let of: Vec<_> = texts(&taken).into_iter().filter(|t| t.starts_with(name)).collect();
        assert_eq!(of, (0..30).map(|n| format!("{name}{n}")).collect::<Vec<_>>());
    }
    Ok(())
}

pub(crate) async fn new_ack_wait_applies_to_pending_messages(f: &Fixture) -> Result<()> {
    let (stream, mut consumer) = one(f, |_| ()).await?;
    f.publish_numbers("a", 3).await?;
    let mut puller = f.pull(&consumer).await?;
    let taken = receive(&mut puller, 3).await?;
    puller.close().await;
    // In progress, the first message has the latest end of its ack wait. By the new ack wait all three are over at once.
    sleep(millis(500)).await;
    taken[0].in_progress().await?;
    sleep(millis(500)).await;
    consumer.ack_wait = millis(200);
    f.apply(&[&stream], &[&consumer]).await?;
    sleep(millis(1_000)).await;
    let again = receive_and_ack(&mut f.pull(&consumer).await?, 3).await?;
    assert_eq!(texts(&again), numbers(0..3));
    assert!(again.iter().all(|d| d.deliveries == 2));
    Ok(())
}
