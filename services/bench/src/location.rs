//! Positions from WebSockets to both consumers of `location.update`: as many as go through.

use std::time::Duration;

use anyhow::{Context, Result};
use chrono::SecondsFormat;
use platform::World;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::table::{Row, row};
use crate::target::{Client, Target, place};

/// Sockets that send.
const SENDERS: usize = 64;
/// Points of a frame, in the second of the two measurements.
pub(crate) const BATCH: usize = 20;
/// One frame of so many asks for an ack: then the load is what the platform accepts, and not what socket buffers hold.
const ACK_EVERY: u64 = 50;

/// Positions a second, from the first one sent to the last one handled by both consumers.
pub(crate) async fn measure(
    target: &Target,
    world: &World,
    drivers: &[Client],
    points: usize,
    length: Duration,
    raw: f64,
) -> Result<Row> {
    eprintln!("location.update, {points} point(s) a frame, {} s …", length.as_secs());
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for (n, driver) in drivers.iter().take(SENDERS).enumerate() {
        let (sender, world, at) = (driver.sender(), world.clone(), place(n));
        senders.spawn(async move {
            let mut frames = 0u64;
            while began.elapsed() < length {
                let id = frames.is_multiple_of(ACK_EVERY).then_some("p");
                sender.lock().await.send(id, "location.update", &frame(&world, &at, points)).await?;
                frames += 1;
            }
            anyhow::Ok(frames)
        });
    }
    let mut sent = 0;
    while let Some(frames) = senders.join_next().await {
        sent += frames?? * points as u64;
    }
    let mut waiting = 0;
    for _ in 0..120 {
        waiting = messages_waiting(target).await?;
        if waiting == 0 {
            break;
        }
        // Seldom: `/stats` is a request to the bus for every consumer.
        sleep(Duration::from_millis(500)).await;
    }
    let rate = (sent - waiting.min(sent)) as f64 / began.elapsed().as_secs_f64();
    if waiting > 0 {
        for consumer in target.consumers().await?.iter().filter(|c| is_of_positions(c)) {
            eprintln!("  not handled a minute after the last was sent: {consumer}");
        }
    }
    Ok(row(
        format!("location.update to the newest-position index, {points}/frame"),
        format!("{rate:.0}/s"),
        "20,000/s and 0.3 of raw",
        format!("{:.2} (raw {raw:.0}/s)", rate / raw),
    ))
}

fn frame(world: &World, at: &Value, points: usize) -> Value {
    let point = |n: usize| {
        let recorded = world.now() + chrono::Duration::microseconds(n as i64);
        json!({"location": at, "recorded_at": recorded.to_rfc3339_opts(SecondsFormat::Micros, true)})
    };
    match points {
        1 => point(0),
        points => json!({"points": (0..points).map(point).collect::<Vec<_>>()}),
    }
}

fn is_of_positions(consumer: &Value) -> bool {
    consumer["name"].as_str().is_some_and(|name| name.starts_with("location_update"))
}

/// Messages that the slower of the two consumers has not handled yet.
async fn messages_waiting(target: &Target) -> Result<u64> {
    let consumers = target.consumers().await?;
    let waiting = |c: &Value| c["pending"].as_u64().unwrap_or(0) + c["ack_pending"].as_u64().unwrap_or(0);
    let of_positions = consumers.iter().filter(|c| is_of_positions(c)).map(waiting);
    of_positions.max().context("/stats has no consumer of location.update")
}
