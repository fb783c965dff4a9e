//! Replays, and single messages by sequence or subject.

use anyhow::{Context, Result};
use std::time::Duration;
use streams::BusError;
use streams::bus::{Replay, ReplayStart, StoredMessage};
use streams::topology::{Retention, Stream};

use crate::fixture::*;

const SOON: Duration = Duration::from_secs(10);

/// Creates a limits stream with the messages `0` … `9`, even ones on `a` and odd ones on `b`.
async fn ten(f: &Fixture) -> Result<Stream> {
    let stream = f.stream("S", &["a", "b"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    for n in 0..10 {
        f.bus.publish(f.message(if n % 2 == 0 { "a" } else { "b" }, n.to_string())).await?;
    }
    Ok(stream)
}

async fn next(replay: &mut Replay) -> Result<StoredMessage> {
    replay.next(SOON).await?.context("the next message")
}

async fn read(replay: &mut Replay, count: usize) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    for _ in 0..count {
        seen.push(text(&next(replay).await?).to_owned());
    }
    Ok(seen)
}

pub(crate) async fn replay_begins_at_a_sequence(f: &Fixture) -> Result<()> {
    let stream = ten(f).await?;
    for (start, first) in [(0, 0), (1, 0), (4, 3), (10, 9)] {
        let mut replay = f.bus.replay(&stream.name, None, ReplayStart::Sequence(start)).await?;
        assert_eq!(read(&mut replay, 10 - first).await?, numbers(first..10), "from sequence {start}");
        assert!(replay.next(millis(200)).await?.is_none());
    }
    Ok(())
}

pub(crate) async fn replay_begins_at_a_time(f: &Fixture) -> Result<()> {
    let stream = ten(f).await?;
    sleep(millis(50)).await;
    f.publish("a", "later").await?;
    let at = f.bus.get_message(&stream.name, 11).await?.stored_at;
    let mut replay = f.bus.replay(&stream.name, None, ReplayStart::Time(at)).await?;
    assert_eq!(read(&mut replay, 1).await?, ["later"]);
    let earlier = ReplayStart::Time(at - Duration::from_secs(3_600));
    let mut replay = f.bus.replay(&stream.name, None, earlier).await?;
    assert_eq!(read(&mut replay, 2).await?, ["0", "1"]);
    Ok(())
}

pub(crate) async fn replay_from_the_far_future_is_empty(f: &Fixture) -> Result<()> {
    let stream = ten(f).await?;
    for time in ["2200-01-01T00:00:00Z", "2263-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
        let mut replay = f.bus.replay(&stream.name, None, ReplayStart::Time(time.parse()?)).await?;
        assert!(replay.is_at_end(), "{time}");
        assert!(replay.next(millis(200)).await?.is_none(), "{time}");
    }
    Ok(())
}

pub(crate) async fn replay_reads_what_its_filter_matches(f: &Fixture) -> Result<()> {
    let stream = ten(f).await?;
    let (only, pattern) = (f.subject("b"), f.subject("*"));
    let mut replay = f.bus.replay(&stream.name, Some(&only), ReplayStart::Sequence(3)).await?;
    assert_eq!(read(&mut replay, 4).await?, ["3", "5", "7", "9"]);
    let mut replay = f.bus.replay(&stream.name, Some(&pattern), ReplayStart::Sequence(9)).await?;
    assert_eq!(read(&mut replay, 2).await?, ["8", "9"]);
    Ok(())
}

pub(crate) async fn replay_follows_new_messages(f: &Fixture) -> Result<()> {
    let stream = ten(f).await?;
    let filter = f.subject("a");
    let mut replay = f.bus.replay(&stream.name, Some(&filter), ReplayStart::Sequence(9)).await?;
    assert_eq!(read(&mut replay, 1).await?, ["8"]);
    assert!(replay.next(millis(200)).await?.is_none());
    let follower = tokio::spawn(async move { read(&mut replay, 2).await });
    sleep(millis(100)).await;
    f.publish("b", "not this").await?;
    f.publish("a", "10").await?;
    f.publish("a", "11").await?;
    assert_eq!(follower.await??, ["10", "11"]);
    Ok(())
}

pub(crate) async fn replay_from_beyond_the_end_reads_new_messages(f: &Fixture) -> Result<()> {
    let stream = ten(f).await?;
    let mut replay = f.bus.replay(&stream.name, None, ReplayStart::Sequence(1_000)).await?;
    f.publish("a", "new").await?;
    assert_eq!(read(&mut replay, 1).await?, ["new"]);
    assert!(replay.next(millis(300)).await?.is_none());
    Ok(())
}

pub(crate) async fn replay_does_not_touch_consumers(f: &Fixture) -> Result<()> {
    let stream = ten(f).await?;
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    let mut puller = f.pull(&consumer).await?;
    receive_and_ack(&mut puller, 2).await?;
    let held = receive_one(&mut puller).await?;
    puller.close().await;
    sleep(millis(100)).await;
    let before = f.bus.consumer_info(&stream.name, &consumer.durable).await?;
    let mut replay = f.bus.replay(&stream.name, None, ReplayStart::Sequence(1)).await?;
    assert_eq!(read(&mut replay, 10).await?, numbers(0..10));
    assert_eq!(f.bus.consumer_info(&stream.name, &consumer.durable).await?, before);
    held.ack_confirmed().await?;
    Ok(())
}

pub(crate) async fn replay_of_a_thousand_is_in_order(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    f.publish_numbers("a", 1_000).await?;
    let mut replay = f.bus.replay(&stream.name, None, ReplayStart::Sequence(1)).await?;
    for sequence in 1..=1_000 {
        let message = next(&mut replay).await?;
        assert_eq!((message.sequence, text(&message)), (sequence, (sequence - 1).to_string().as_str()));
    }
    Ok(())
}

pub(crate) async fn replay_of_a_missing_stream_is_not_found(f: &Fixture) -> Result<()> {
    let replay = f.bus.replay(&f.name("none"), None, ReplayStart::Sequence(1)).await;
    assert!(matches!(replay, Err(BusError::NotFound(_))), "{:?}", replay.map(drop));
    Ok(())
}

pub(crate) async fn stored_message_is_as_published(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    let mut message = f.message("a", vec![0_u8, 159, 146, 150]);
    message.headers.set("Name", "value");
    let sequence = f.bus.publish(message.clone()).await?.sequence;
    let stored = f.bus.get_message(&stream.name, sequence).await?;
    let mut replay = f.bus.replay(&stream.name, None, ReplayStart::Sequence(1)).await?;
    assert_eq!(next(&mut replay).await?, stored, "a replay reads the same");
    assert_eq!((stored.subject, stored.headers, stored.payload), (message.subject, message.headers, message.payload));
    Ok(())
}

pub(crate) async fn replay_in_batches_reports_its_end(f: &Fixture) -> Result<()> {
    let stream = ten(f).await?;
    for (filter, wanted) in [(None, 0..10), (Some(f.subject("c")), 0..0)] {
        let mut replay = f.bus.replay(&stream.name, filter.as_deref(), ReplayStart::Sequence(1)).await?;
        let mut seen = Vec::new();
        while !replay.is_at_end() {
            let batch = replay.batch(4, SOON).await?;
            assert!((1..=4).contains(&batch.len()), "{}", batch.len());
            seen.extend(batch.iter().map(|m| text(m).to_owned()));
        }
        assert_eq!(seen, numbers(wanted));
        assert!(replay.batch(4, millis(200)).await?.is_empty());
    }
    Ok(())
}

pub(crate) async fn deleted_message_is_gone_for_every_reader(f: &Fixture) -> Result<()> {
    let stream = ten(f).await?;
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    for sequence in [3, 10] {
        f.bus.delete_message(&stream.name, sequence).await?;
        assert!(f.bus.delete_message(&stream.name, sequence).await.is_err(), "deleted twice");
        assert!(matches!(f.bus.get_message(&stream.name, sequence).await, Err(BusError::NotFound(_))));
    }
    let mut replay = f.bus.replay(&stream.name, None, ReplayStart::Sequence(1)).await?;
    assert_eq!(read(&mut replay, 8).await?, ["0", "1", "3", "4", "5", "6", "7", "8"]);
    assert!(replay.is_at_end());
    let mut puller = f.pull(&consumer).await?;
    receive_and_ack(&mut puller, 4).await?;
    let info = f.bus.stream_info(&stream.name).await?;
    assert_eq!((info.messages, info.last_sequence), (8, 10));
    assert_eq!(f.publish("a", "new").await?.sequence, 11, "no sequence is given twice");
    Ok(())
}

pub(crate) async fn newest_message_of_a_subject_is_found(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a.x", "a.y"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    let last = async |subject: &str| f.bus.last_message(&stream.name, &f.subject(subject)).await;
    assert!(matches!(last("a.x").await, Err(BusError::NotFound(_))));
    for (subject, body) in [("a.x", "1"), ("a.x", "2"), ("a.y", "3")] {
        f.publish(subject, body).await?;
    }
    assert_eq!((text(&last("a.x").await?), last("a.x").await?.sequence), ("2", 2));
    assert_eq!(text(&last("a.*").await?), "3");
    f.bus.delete_message(&stream.name, 2).await?;
    assert_eq!(text(&last("a.x").await?), "1");
    Ok(())
}

pub(crate) async fn deleting_a_message_ends_all_interest_in_it(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    f.publish_numbers("a", 3).await?;
    let mut puller = f.pull(&consumer).await?;
    let held = receive_one(&mut puller).await?;
    f.bus.delete_message(&stream.name, 1).await?;
    f.bus.delete_message(&stream.name, 2).await?;
    let again = f.bus.delete_message(&stream.name, 2).await;
    assert!(matches!(again, Err(BusError::NotFound(_))), "{again:?}");
    let gone = f.bus.get_message(&stream.name, 2).await;
    assert!(matches!(gone, Err(BusError::NotFound(_))), "{gone:?}");
    held.ack().await?;
    assert_eq!(texts(&receive_and_ack(&mut puller, 1).await?), ["2"]);
    f.until_stored(&stream, 0).await
}

pub(crate) async fn server_time_is_the_clock_of_stored_at(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    let before = f.bus.server_time(&stream.name).await?;
    f.publish("a", "1").await?;
    let after = f.bus.server_time(&stream.name).await?;
    let stored_at = f.bus.get_message(&stream.name, 1).await?.stored_at;
    assert!(before <= stored_at && stored_at <= after, "{before} {stored_at} {after}");
    let nowhere = f.bus.server_time(&f.name("none")).await;
    assert!(matches!(nowhere, Err(BusError::NotFound(_))), "{nowhere:?}");
    Ok(())
}
