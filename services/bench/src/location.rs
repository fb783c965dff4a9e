//! Positions from WebSockets to both consumers of `location.update`, offered at the rate of the raw bus: how many go through, and how old
//! they are then.

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
/// One frame of so many asks for an ack.
const ACK_EVERY: u64 = 50;
/// The consumers of `location.update`.
const READERS: u64 = 2;

/// Positions a second that both consumers handle while as many are offered as the raw bus takes; and their ages then, by the clock of their
/// senders. What waits in socket buffers, or what the stream dropped because it was full, does not count.
pub(crate) async fn measure(
    target: &Target,
    world: &World,
    drivers: &[Client],
    points: usize,
    length: Duration,
    raw: f64,
) -> Result<[Row; 2]> {
    let before = target.metrics().await?;
    eprintln!("location.update, {points} point(s) a frame, {} s …", length.as_secs());
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for (n, driver) in drivers.iter().take(SENDERS).enumerate() {
        let (sender, world, at) = (driver.sender(), world.clone(), place(n));
        senders.spawn(async move {
            let mut frames = 0u64;
            while began.elapsed() < length {
                let due = began.elapsed().as_secs_f64() * raw / (points * SENDERS) as f64;
                if frames as f64 > due {
                    sleep(Duration::from_millis(1)).await;
                    continue;
                }
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
    let took_s = began.elapsed().as_secs_f64();
    let after = target.metrics().await?;
    let ages = Ages::read(&after).since(&Ages::read(&before));
    let handled = (handled(&after) - handled(&before)) / READERS;
    let rate = handled as f64 / took_s;
    eprintln!("  {sent} sent, {handled} handled by both consumers while they were sent");
    for _ in 0..120 {
        if messages_waiting(target).await? == 0 {
            break;
        }
        // Seldom: `/stats` is a request to the bus for every consumer.
        sleep(Duration::from_millis(500)).await;
    }
    let name = format!("location.update to the newest-position index, {points}/frame");
    let reached = format!("{rate:.0}/s");
    let ratio = format!("{:.2} (raw {raw:.0}/s)", rate / raw);
    let at_most = |part| ages.at_most(part).map_or("?".to_owned(), |s| format!("{s:.3}"));
    Ok([
        row(name, reached, "20,000/s and 0.3 of raw", ratio),
        row(
            "  their age in the index, at most",
            format!("p50 {} p99 {} s", at_most(0.5), at_most(0.99)),
            "p99 2 s",
            "–",
        ),
    ])
}

/// Positions that both consumers together have handled.
fn handled(metrics: &str) -> u64 {
    let count = |line: &str| {
        let of = line.strip_prefix("rideshare_messages_handled_total{consumer=\"location_update_")?;
        of.rsplit(' ').next()?.parse::<u64>().ok()
    };
    metrics.lines().filter_map(count).sum()
}

/// How many positions were not older than a number of seconds when they were handled, as the histogram of the platform says.
struct Ages(Vec<(f64, u64)>);

impl Ages {
    fn read(metrics: &str) -> Self {
        let line = |line: &str| {
            let (labels, count) = line.strip_prefix("rideshare_event_delay_seconds_bucket{")?.split_once("} ")?;
            let is_wanted = labels.contains("subject=\"location.update\"") && labels.contains("path=\"jetstream\"");
            let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            is_wanted.then_some((bound, count.parse::<f64>().ok()? as u64))
        };
        Self(metrics.lines().filter_map(line).collect())
    }

    fn since(self, before: &Self) -> Self {
        let earlier = |bound: f64| before.0.iter().find(|(of, _)| *of == bound).map_or(0, |(_, count)| *count);
        Self(self.0.into_iter().map(|(bound, count)| (bound, count - earlier(bound))).collect())
    }

    /// The least bound below which this part of all positions was; `None` without any, as from a version that does not measure it.
    fn at_most(&self, part: f64) -> Option<f64> {
        let all = self.0.last()?.1;
        let found = self.0.iter().find(|(_, count)| *count as f64 >= part * all as f64)?;
        (all > 0).then_some(found.0)
    }
}

/// A frame with the newest points.
pub(crate) fn frame(world: &World, at: &Value, points: usize) -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_from_the_histogram_and_of_one_run() {
        let text = |counts: [u64; 3]| {
            let line = |le: &str, count: u64| {
                format!(
                    "rideshare_event_delay_seconds_bucket{{path=\"jetstream\",subject=\"location.update\",le=\"{le}\"}} {count}\n"
                )
            };
            let other = "rideshare_event_delay_seconds_bucket{path=\"core\",subject=\"match.found\",le=\"0.5\"} 7\n";
            other.to_owned() + &line("0.5", counts[0]) + &line("1", counts[1]) + &line("+Inf", counts[2])
        };
        let ages = Ages::read(&text([60, 110, 111])).since(&Ages::read(&text([10, 10, 11])));
        assert_eq!((ages.at_most(0.5), ages.at_most(0.51), ages.at_most(1.0)), (Some(0.5), Some(1.0), Some(1.0)));
        assert_eq!(Ages::read("").at_most(0.5), None);
    }
}
