//! When a stream removes a message (interest, work queue, limits, age, bytes), and the duplicate window.

use anyhow::Result;
use std::time::Duration;
use streams::BusError;
use streams::bus::MESSAGE_ID;
use streams::topology::{Discard, Retention, Storage, Stream};

use crate::fixture::*;

pub(crate) async fn interest_stream_removes_a_message_at_the_ack(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    f.publish_numbers("a", 3).await?;
    assert_eq!(f.stored(&stream).await?, 3);
    let taken = receive(&mut f.pull(&consumer).await?, 3).await?;
    taken[1].ack_confirmed().await?;
    f.until_stored(&stream, 2).await?;
    assert!(matches!(f.bus.get_message(&stream.name, 2).await, Err(BusError::NotFound(_))));
    taken[0].ack_confirmed().await?;
    taken[2].terminate().await?;
    f.until_stored(&stream, 0).await?;
    let info = f.bus.stream_info(&stream.name).await?;
    assert_eq!((info.first_sequence, info.last_sequence, info.bytes, info.consumers), (4, 3, 0, 1));
    Ok(())
}

pub(crate) async fn interest_stream_removes_a_message_after_both_acks(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let (one, two) = (f.consumer(&stream, "C1", "a"), f.consumer(&stream, "C2", "a"));
    f.apply(&[&stream], &[&one, &two]).await?;
    f.publish_numbers("a", 2).await?;
    receive_and_ack(&mut f.pull(&one).await?, 2).await?;
    assert_eq!(f.stored(&stream).await?, 2);
    assert_eq!(texts(&receive_and_ack(&mut f.pull(&two).await?, 2).await?), ["0", "1"]);
    f.until_stored(&stream, 0).await
}

pub(crate) async fn interest_stream_without_interest_stores_nothing(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a", "b"], Retention::Interest);
    f.apply(&[&stream], &[]).await?;
    for sequence in 1..=2 {
        let published = f.publish("a", "lost").await?;
        assert_eq!(
            (published.stream, published.sequence),
            (stream.name.clone(), sequence),
            "and acknowledges the publish"
        );
    }
    assert_eq!(f.stored(&stream).await?, 0);
    let other = f.consumer(&stream, "other", "b");
    f.apply(&[&stream], &[&other]).await?;
    f.publish("a", "lost too").await?;
    assert_eq!((f.stored(&stream).await?, f.lag(&other).await?), (0, (0, 0)));
    f.publish("b", "stored").await?;
    assert_eq!((f.stored(&stream).await?, f.lag(&other).await?), (1, (1, 0)));
    assert_eq!(f.bus.get_message(&stream.name, 4).await?.subject, f.subject("b"));
    Ok(())
}

pub(crate) async fn late_consumer_reads_what_is_still_stored(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let early = f.consumer(&stream, "early", "a");
    f.apply(&[&stream], &[&early]).await?;
    f.publish_numbers("a", 4).await?;
    let pending = receive(&mut f.pull(&early).await?, 4).await?;
    pending[0].ack_confirmed().await?;
    pending[2].ack_confirmed().await?;
    f.until_stored(&stream, 2).await?;
    let late = f.consumer(&stream, "late", "a");
    f.apply(&[&stream], &[&late]).await?;
    assert_eq!(f.lag(&late).await?, (2, 0));
    pending[1].ack_confirmed().await?;
    pending[3].ack_confirmed().await?;
    assert_eq!(f.stored(&stream).await?, 2, "the late consumer has yet to acknowledge them");
    assert_eq!(texts(&receive_and_ack(&mut f.pull(&late).await?, 2).await?), ["1", "3"]);
    f.until_stored(&stream, 0).await
}

pub(crate) async fn termination_ends_the_interest_of_one_consumer(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let (one, two) = (f.consumer(&stream, "C1", "a"), f.consumer(&stream, "C2", "a"));
    f.apply(&[&stream], &[&one, &two]).await?;
    f.publish_numbers("a", 1).await?;
    receive_one(&mut f.pull(&one).await?).await?.terminate().await?;
    assert_eq!(f.stored(&stream).await?, 1);
    assert_eq!((f.lag(&one).await?, f.lag(&two).await?), ((0, 0), (1, 0)));
    receive_and_ack(&mut f.pull(&two).await?, 1).await?;
    f.until_stored(&stream, 0).await
}

pub(crate) async fn deleting_a_consumer_ends_its_interest(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Interest);
    let (reader, leaver) = (f.consumer(&stream, "reader", "a"), f.consumer(&stream, "leaver", "a"));
    f.apply(&[&stream], &[&reader, &leaver]).await?;
    f.publish_numbers("a", 4).await?;
    receive(&mut f.pull(&leaver).await?, 1).await?;
    receive_and_ack(&mut f.pull(&reader).await?, 3).await?;
    assert_eq!(f.stored(&stream).await?, 4);
    f.bus.delete_consumer(&stream.name, &leaver.durable).await?;
    f.until_stored(&stream, 1).await?;
    f.bus.delete_consumer(&stream.name, &reader.durable).await?;
    f.until_stored(&stream, 0).await
}

pub(crate) async fn narrowing_a_filter_ends_its_interest(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a", "b"], Retention::Interest);
    let mut wide = f.consumer(&stream, "wide", "*");
    let other = f.consumer(&stream, "other", "a");
    f.apply(&[&stream], &[&wide, &other]).await?;
    for subject in ["a", "b", "b"] {
        f.publish(subject, "x").await?;
    }
    assert_eq!(f.stored(&stream).await?, 3);
    wide.filter = f.subject("a");
    f.apply(&[&stream], &[&wide, &other]).await?;
    f.until_stored(&stream, 1).await?;
    for consumer in [&wide, &other] {
        receive_and_ack(&mut f.pull(consumer).await?, 1).await?;
    }
    f.until_stored(&stream, 0).await
}

pub(crate) async fn work_queue_delivers_each_message_once(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a", "b"], Retention::WorkQueue);
    f.apply(&[&stream], &[]).await?;
    f.publish_numbers("a", 3).await?;
    f.publish("b", "other").await?;
    assert_eq!(f.stored(&stream).await?, 4, "it stores messages that no consumer reads yet");
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    let taken = receive(&mut f.pull(&consumer).await?, 3).await?;
    assert_eq!(texts(&taken), ["0", "1", "2"]);
    taken[2].ack_confirmed().await?;
    taken[0].ack_confirmed().await?;
    taken[1].terminate().await?;
    f.until_stored(&stream, 1).await
}

pub(crate) async fn work_queue_refuses_overlapping_consumers(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["w.>"], Retention::WorkQueue);
    let first = f.consumer(&stream, "first", "w.a");
    f.apply(&[&stream], &[&first]).await?;
    for (name, filter) in [("same", "w.a"), ("star", "w.*"), ("all", "")] {
        let second = f.consumer(&stream, name, filter);
        let refused = f.bus.apply(&topology(&[&stream], &[&second])).await;
        assert!(matches!(refused, Err(BusError::Refused(_))), "{name}: {refused:?}");
    }
    f.apply(&[&stream], &[&f.consumer(&stream, "beside", "w.b")]).await?;
    assert_eq!(f.bus.stream_info(&stream.name).await?.consumers, 2);
    Ok(())
}

pub(crate) async fn work_queue_retains_messages_without_a_consumer(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::WorkQueue);
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    f.publish_numbers("a", 3).await?;
    receive_and_ack(&mut f.pull(&consumer).await?, 1).await?;
    f.bus.delete_consumer(&stream.name, &consumer.durable).await?;
    f.until_stored(&stream, 2).await?;
    f.apply(&[&stream], &[&consumer]).await?;
    assert_eq!(texts(&receive_and_ack(&mut f.pull(&consumer).await?, 2).await?), ["1", "2"]);
    f.until_stored(&stream, 0).await
}

pub(crate) async fn limits_stream_retains_acknowledged_messages(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    f.publish_numbers("a", 3).await?;
    receive_and_ack(&mut f.pull(&consumer).await?, 3).await?;
    let info = f.bus.stream_info(&stream.name).await?;
    assert_eq!((info.messages, info.first_sequence, info.last_sequence), (3, 1, 3));
    Ok(())
}

pub(crate) async fn messages_beyond_the_maximum_age_are_removed(f: &Fixture) -> Result<()> {
    let mut stream = f.stream("S", &["a"], Retention::Interest);
    stream.max_age = millis(1_500);
    stream.duplicate_window = millis(1_000);
    let (holder, away) = (f.consumer(&stream, "holder", "a"), f.consumer(&stream, "away", "a"));
    f.apply(&[&stream], &[&holder, &away]).await?;
    f.publish_numbers("a", 2).await?;
    let pending = receive(&mut f.pull(&holder).await?, 2).await?;
    pending[0].ack_confirmed().await?;
    sleep(millis(2_000)).await;
    f.until_stored(&stream, 0).await?;
    f.until_lag(&holder, (0, 0)).await?;
    f.until_lag(&away, (0, 0)).await?;
    receive_nothing(&mut f.pull(&away).await?, millis(300)).await?;
    f.publish("a", "young").await?;
    assert_eq!(texts(&receive_and_ack(&mut f.pull(&away).await?, 1).await?), ["young"]);
    Ok(())
}

/// Bytes of a stored message without headers, as both buses count them.
fn size(stream: &Stream, payload: usize) -> i64 {
    let record = if stream.storage == Storage::File { 30 } else { 16 };
    (record + stream.subjects[0].len() + payload) as i64
}

pub(crate) async fn bytes_are_counted_as_the_server_does(f: &Fixture) -> Result<()> {
    for (name, storage) in [("a", Storage::Memory), ("b", Storage::File)] {
        let mut stream = f.stream(name, &[name], Retention::Limits);
        stream.storage = storage;
        f.apply(&[&stream], &[]).await?;
        f.publish(name, "12345").await?;
        assert_eq!(f.bus.stream_info(&stream.name).await?.bytes as i64, size(&stream, 5));
        let mut message = f.message(name, "");
        message.headers.set("Name", "value");
        message.headers.set("Other", "");
        f.bus.publish(message).await?;
        let headers = "NATS/1.0\r\nName: value\r\nOther: \r\n\r\n".len() as i64;
        let extra = if storage == Storage::File { 4 } else { 0 };
        let expected = size(&stream, 5) + size(&stream, 0) + headers + extra;
        assert_eq!(f.bus.stream_info(&stream.name).await?.bytes as i64, expected, "{storage:?}");
    }
    Ok(())
}

pub(crate) async fn full_stream_refuses_new_messages(f: &Fixture) -> Result<()> {
    let mut stream = f.stream("S", &["a"], Retention::WorkQueue);
    stream.max_bytes = 3 * size(&stream, 10);
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    for n in 0..3 {
        f.bus.publish(f.message("a", format!("message{n:03}"))).await?;
    }
    let refused = f.publish("a", "message003").await;
    assert!(matches!(refused.as_ref().map_err(|e| e.downcast_ref()), Err(Some(BusError::Full(_)))), "{refused:?}");
    assert_eq!(f.stored(&stream).await?, 3);
    receive_and_ack(&mut f.pull(&consumer).await?, 1).await?;
    f.until_stored(&stream, 2).await?;
    assert_eq!(f.publish("a", "message003").await?.sequence, 4, "there is room again, and no sequence was used up");
    Ok(())
}

pub(crate) async fn refused_message_is_stored_when_republished(f: &Fixture) -> Result<()> {
    let mut stream = f.stream("S", &["a"], Retention::WorkQueue);
    stream.max_bytes = 200;
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    let message = f.message_with_id("a", "id").tap(|m| m.payload = vec![b'x'; 90].into());
    f.publish("a", "first, and large: 0123456789012345678901234567890123456789").await?;
    let refused = f.bus.publish(message.clone()).await;
    assert!(matches!(refused, Err(BusError::Full(_))), "{refused:?}");
    receive_and_ack(&mut f.pull(&consumer).await?, 1).await?;
    f.until_stored(&stream, 0).await?;
    assert!(!f.bus.publish(message).await?.duplicate);
    Ok(())
}

pub(crate) async fn full_stream_with_discard_old_removes_the_oldest(f: &Fixture) -> Result<()> {
    let mut stream = f.stream("S", &["a"], Retention::Interest);
    stream.discard = Discard::Old;
    stream.max_bytes = 3 * size(&stream, 1);
    let (consumer, holder) = (f.consumer(&stream, "C", "a"), f.consumer(&stream, "holder", "a"));
    f.apply(&[&stream], &[&consumer, &holder]).await?;
    f.publish_numbers("a", 1).await?;
    receive(&mut f.pull(&holder).await?, 1).await?;
    for payload in ["1", "2", "3", "4"] {
        f.publish("a", payload).await?;
    }
    let info = f.bus.stream_info(&stream.name).await?;
    assert_eq!((info.messages, info.first_sequence, info.last_sequence), (3, 3, 5));
    f.until_lag(&consumer, (3, 0)).await?;
    assert_eq!(texts(&receive(&mut f.pull(&consumer).await?, 3).await?), ["2", "3", "4"]);
    let (pending, ack_pending) = f.lag(&holder).await?;
    assert!(pending + ack_pending <= 4, "the removed message is no longer pending: {pending}, {ack_pending}");
    Ok(())
}

pub(crate) async fn duplicate_is_acknowledged_and_not_stored(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a", "b"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    let first = f.bus.publish(f.message_with_id("a", "one")).await?;
    assert_eq!((first.sequence, first.duplicate), (1, false));
    f.bus.publish(f.message_with_id("a", "two")).await?;
    for subject in ["a", "b"] {
        let again = f.bus.publish(f.message_with_id(subject, "one")).await?;
        assert_eq!((again.sequence, again.duplicate), (1, true), "on any subject of the stream");
    }
    assert_eq!(f.stored(&stream).await?, 2);
    assert_eq!(f.bus.get_message(&stream.name, 1).await?.headers.find(MESSAGE_ID), Some("one"));
    Ok(())
}

pub(crate) async fn messages_without_an_id_are_no_duplicates(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a"], Retention::Limits);
    f.apply(&[&stream], &[]).await?;
    f.publish("a", "same").await?;
    assert!(!f.publish("a", "same").await?.duplicate);
    assert_eq!(f.stored(&stream).await?, 2);
    Ok(())
}

pub(crate) async fn same_id_on_two_streams_is_no_duplicate(f: &Fixture) -> Result<()> {
    let (one, two) = (f.stream("S1", &["a"], Retention::Limits), f.stream("S2", &["b"], Retention::Limits));
    f.apply(&[&one, &two], &[]).await?;
    assert!(!f.bus.publish(f.message_with_id("a", "id")).await?.duplicate);
    assert!(!f.bus.publish(f.message_with_id("b", "id")).await?.duplicate);
    Ok(())
}

pub(crate) async fn republish_of_a_removed_message_is_a_duplicate(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a", "b"], Retention::Interest);
    let consumer = f.consumer(&stream, "C", "a");
    f.apply(&[&stream], &[&consumer]).await?;
    f.bus.publish(f.message_with_id("a", "acked")).await?;
    f.bus.publish(f.message_with_id("b", "unwanted")).await?;
    receive_and_ack(&mut f.pull(&consumer).await?, 1).await?;
    f.until_stored(&stream, 0).await?;
    for (subject, id, sequence) in [("a", "acked", 1), ("b", "unwanted", 2)] {
        let again = f.bus.publish(f.message_with_id(subject, id)).await?;
        assert_eq!((again.sequence, again.duplicate), (sequence, true), "{id}");
    }
    receive_nothing(&mut f.pull(&consumer).await?, millis(300)).await
}

pub(crate) async fn republish_after_the_duplicate_window_is_stored(f: &Fixture) -> Result<()> {
    let mut stream = f.stream("S", &["a"], Retention::Limits);
    stream.duplicate_window = millis(1_000);
    f.apply(&[&stream], &[]).await?;
    f.bus.publish(f.message_with_id("a", "id")).await?;
    assert!(f.bus.publish(f.message_with_id("a", "id")).await?.duplicate);
    sleep(Duration::from_secs(3)).await;
    let again = f.bus.publish(f.message_with_id("a", "id")).await?;
    assert_eq!((again.sequence, again.duplicate), (2, false));
    Ok(())
}

trait Tap: Sized {
    fn tap(self, change: impl FnOnce(&mut Self)) -> Self;
}

impl Tap for streams::Message {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

pub(crate) async fn longer_window_does_not_restore_expired_ids(f: &Fixture) -> Result<()> {
    let mut stream = f.stream("S", &["a"], Retention::Limits);
    stream.duplicate_window = millis(300);
    f.apply(&[&stream], &[]).await?;
    assert_eq!(f.bus.publish(f.message_with_id("a", "id")).await?.sequence, 1);
    sleep(millis(900)).await;
    stream.duplicate_window = Duration::from_secs(60);
    f.apply(&[&stream], &[]).await?;
    for (sequence, duplicate) in [(2, false), (2, true)] {
        let published = f.bus.publish(f.message_with_id("a", "id")).await?;
        assert_eq!((published.sequence, published.duplicate), (sequence, duplicate));
    }
    Ok(())
}

pub(crate) async fn late_ack_removes_nothing_from_the_next_consumer_of_a_work_queue(f: &Fixture) -> Result<()> {
    let stream = f.stream("S", &["a", "b"], Retention::WorkQueue);
    let (mut consumer, next) = (f.consumer(&stream, "C", "a"), f.consumer(&stream, "next", "a"));
    f.apply(&[&stream], &[&consumer]).await?;
    f.publish("a", "0").await?;
    let mut puller = f.pull(&consumer).await?;
    let late = receive_one(&mut puller).await?;
    puller.close().await;
    f.bus.delete_consumer(&stream.name, &consumer.durable).await?;
    // A new consumer of the same name, for another subject, has its cursor beyond the message.
    consumer.filter = f.subject("b");
    f.apply(&[&stream], &[&next, &consumer]).await?;
    let mut puller = f.pull(&consumer).await?;
    receive_nothing(&mut puller, millis(300)).await?;
    puller.close().await;
    late.ack_confirmed().await?;
    assert_eq!(texts(&receive_and_ack(&mut f.pull(&next).await?, 1).await?), ["0"]);
    f.until_stored(&stream, 0).await
}
