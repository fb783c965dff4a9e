//! The raw bus: the same payloads published, and consumed by two consumers, without our code between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream::{self, consumer::pull, stream};
use bytes::Bytes;
use futures_util::{StreamExt, stream as futures};
use platform::World;
use streams::event::LocationUpdate;
use streams::{Event, Position};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cpu::CpuTime;
use crate::target::Servers;

/// Publishers, and publishes in flight of all together: the most, as measured, that does not starve the consumers.
const PUBLISHERS: usize = 4;
const IN_FLIGHT: usize = 1_000;
const STREAM: &str = "BENCH_RAW";
const SUBJECT: &str = "bench_raw.location";

/// What the raw bus does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawBus {
    /// Messages a second that both consumers have acknowledged.
    pub(crate) rate: f64,
    /// The CPU time of each.
    pub(crate) cpu: CpuTime,
}

pub(crate) async fn publish_and_consume(servers: &Servers, world: &World, length: Duration) -> Result<RawBus> {
    let client = async_nats::connect(servers.nats_url.clone()).await.context("NATS_URL")?;
    let context = jetstream::new(client.clone());
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec![SUBJECT.to_owned()],
        retention: stream::RetentionPolicy::Interest,
        storage: stream::StorageType::Memory,
        discard: stream::DiscardPolicy::Old,
        max_bytes: 512 << 20,
        duplicate_window: Duration::from_secs(120),
        ..Default::default()
    };
    let _ = context.delete_stream(STREAM).await;
    let stream = context.create_stream(config).await?;
    let acknowledged = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let mut consumers = JoinSet::new();
    for n in 0..2 {
        let config =
            pull::Config { durable_name: Some(format!("c{n}")), max_ack_pending: 65_536, ..Default::default() };
        let consumer = stream.create_consumer(config).await?;
        let acknowledged = acknowledged.clone();
        consumers.spawn(async move {
            let mut messages = consumer.stream().max_messages_per_batch(500).messages().await?;
            while let Some(message) = messages.next().await {
                message?.ack().await.map_err(|e| anyhow::anyhow!(e))?;
                acknowledged[n].fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    let nats_url = servers.nats_url.first().map_or("", String::as_str);
    let (began, cpu) = (Instant::now(), CpuTime::now(nats_url, None));
    let mut publishers = JoinSet::new();
    for _ in 0..PUBLISHERS {
        publishers.spawn(publish(client.clone(), world.clone(), began + length));
    }
    let mut published = 0;
    while let Some(count) = publishers.join_next().await {
        published += count?;
    }
    while acknowledged.iter().any(|n| n.load(Ordering::Relaxed) < published) {
        anyhow::ensure!(began.elapsed() < length + Duration::from_secs(60), "the raw consumers did not keep up");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = published as f64 / began.elapsed().as_secs_f64();
    let cpu = CpuTime::now(nats_url, None).each_since(cpu, published as f64);
    eprintln!("raw bus: {rate:.0}/s, CPU each: {}", cpu.text());
    consumers.abort_all();
    context.delete_stream(STREAM).await?;
    Ok(RawBus { rate, cpu })
}

/// Publishes positions until then; how many the stream has stored.
async fn publish(client: async_nats::Client, world: World, until: Instant) -> u64 {
    let user_id = world.id();
    let messages = futures::iter(0u64..).take_while(|_| std::future::ready(Instant::now() < until)).map(|_| {
        let now = world.now();
        let event = Event::LocationUpdate(LocationUpdate {
            user_id,
            ride_id: None,
            location: Position { lat: 40.7, lng: -74.0 },
            accuracy_m: None,
            speed_mps: None,
            heading_deg: None,
            recorded_at: now,
            reception: None,
        });
        let id = format!("{}-{}", event.message_id(now), world.below(u32::MAX));
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", id.as_str());
        client.request_with_headers(SUBJECT, headers, Bytes::from(event.body()))
    });
    let acks = messages.buffer_unordered(IN_FLIGHT / PUBLISHERS);
    acks.fold(0u64, |sum, ack| std::future::ready(sum + u64::from(ack.is_ok()))).await
}
