//! Positions from WebSockets to both consumers of `location.update`: offered in steps, as parts of what the raw bus takes, up to the knee and
//! beyond it. What a user feels is the age of the position in the index, so each step shows it beside the rate.

use std::time::Duration;

use anyhow::{Context, Result};
use chrono::SecondsFormat;
use platform::World;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cpu::CpuTime;
use crate::raw_bus::RawBus;
use crate::table::{Row, row};
use crate::target::{Client, Servers, Target, place};

/// Sockets that send.
const SENDERS: usize = 64;
/// Points of a frame, in the second of the two measurements.
pub(crate) const BATCH: usize = 20;
/// One frame of so many asks for an ack.
const ACK_EVERY: u64 = 50;
/// The consumers of `location.update`.
const READERS: u64 = 2;
/// What is offered, as parts of the raw bus.
const STEPS: [f64; 10] = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7];
/// A step is passed if so much of what was offered is handled while it is offered, and if 99 % of it are no older than this, seconds.
const PASSED: f64 = 0.95;
const AGE_MAX_S: f64 = 2.0;

/// What happened while positions were offered at one rate.
struct Step {
    /// Positions a second: sent, handled by both consumers, and left out because newer ones took their place.
    offered: f64,
    handled: f64,
    left_out: f64,
    /// CPU time for each position that is handled.
    cpu: CpuTime,
    ages: Ages,
}

impl Step {
    fn is_passed(&self) -> bool {
        self.handled >= self.offered * PASSED && self.ages.at_most(0.99).is_some_and(|age| age <= AGE_MAX_S)
    }

    fn ages(&self) -> String {
        let at_most = |part| self.ages.at_most(part).map_or("?".to_owned(), |s| format!("{s:.3}"));
        format!("p50 {} p99 {} s", at_most(0.5), at_most(0.99))
    }
}

/// Positions a second that both consumers handle at the knee, which is the last step that is passed; and at twice its rate. Ages are by the
/// clock of the senders. What waits in socket buffers, or what the stream dropped because it was full, does not count.
pub(crate) async fn measure(
    target: &Target,
    servers: &Servers,
    world: &World,
    drivers: &[Client],
    points: usize,
    length: Duration,
    RawBus { rate: raw, cpu: raw_cpu }: RawBus,
) -> Result<Vec<Row>> {
    let nats_url = servers.nats_url.first().map_or("", String::as_str);
    let mut knee = None;
    for part in STEPS {
        let step = offer((target, nats_url), world, drivers, points, length, raw * part).await?;
        if !step.is_passed() {
            break;
        }
        knee = Some(step);
    }
    let name = format!("location.update to the newest-position index, {points}/frame");
    let Some(knee) = knee else { return Ok(vec![row(name, "no step passed".to_owned(), "0.7 of raw", "–")]) };
    let twice = offer((target, nats_url), world, drivers, points, length, knee.offered * 2.0).await?;
    let ratio = |step: &Step| format!("{:.2} (raw {raw:.0}/s)", step.handled / raw);
    Ok(vec![
        row(name, format!("{:.0}/s", knee.handled), "20,000/s and 0.7 of raw", ratio(&knee)),
        row("  CPU time for each", knee.cpu.text(), "–", format!("{:.2} by CPU time", raw_cpu.sum() / knee.cpu.sum())),
        row("  their age in the index, at most", knee.ages(), "p99 2 s", "–"),
        row(
            "  at twice that",
            format!("{:.0}/s and {:.0}/s left out", twice.handled, twice.left_out),
            "–",
            ratio(&twice),
        ),
        row(
            "  CPU time for each",
            twice.cpu.text(),
            "–",
            format!("{:.2} by CPU time", raw_cpu.sum() / twice.cpu.sum()),
        ),
        row("  their age in the index, at most", twice.ages(), "p99 2 s", "–"),
    ])
}

/// Offers `rate` positions a second for `length`, and waits until all are handled.
async fn offer(
    (target, nats_url): (&Target, &str),
    world: &World,
    drivers: &[Client],
    points: usize,
    length: Duration,
    rate: f64,
) -> Result<Step> {
    let before = target.metrics().await?;
    let cpu = CpuTime::now(nats_url, Some(target.process()));
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for (n, driver) in drivers.iter().take(SENDERS).enumerate() {
        let (sender, world, at) = (driver.sender(), world.clone(), place(n));
        senders.spawn(async move {
            let mut frames = 0u64;
            while began.elapsed() < length {
                // One sender after the other, so that a large frame of each does not come at once.
                let due_s = (frames as f64 + n as f64 / SENDERS as f64) * (points * SENDERS) as f64 / rate;
                let due_at = began + Duration::from_secs_f64(due_s);
                if due_at > Instant::now() {
                    sleep_until(due_at.min(began + length)).await;
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
    let all_handled = (handled(&after) - handled(&before)) / READERS;
    let cpu = CpuTime::now(nats_url, Some(target.process())).each_since(cpu, all_handled as f64);
    let per_s = |count: u64| count as f64 / took_s;
    let step = Step {
        offered: per_s(sent),
        handled: per_s(all_handled),
        left_out: per_s(left_out(&after) - left_out(&before)),
        cpu,
        ages: Ages::read(&after).since(&Ages::read(&before)),
    };
    let (offered, handled, left_out) = (step.offered, step.handled, step.left_out);
    eprintln!(
        "location.update, {points} point(s) a frame: {offered:.0}/s offered, {handled:.0}/s handled, {left_out:.0}/s left out; age at most {}; CPU each: {}",
        step.ages(),
        step.cpu.text()
    );
    for _ in 0..120 {
        if messages_waiting(target).await? == 0 {
            break;
        }
        // Seldom: `/stats` is a request to the bus for every consumer.
        sleep(Duration::from_millis(500)).await;
    }
    Ok(step)
}

/// Positions that both consumers together have handled.
fn handled(metrics: &str) -> u64 {
    sum(metrics, "rideshare_messages_handled_total{consumer=\"location_update_")
}

/// Positions that were left out; 0 of a version that leaves out none.
fn left_out(metrics: &str) -> u64 {
    sum(metrics, "rideshare_positions_left_out_total{")
}

/// The sum of the metrics whose lines begin so.
fn sum(metrics: &str, prefix: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(prefix)?.rsplit(' ').next()?.parse::<u64>().ok();
    metrics.lines().filter_map(value).sum()
}

/// How many positions were not older than a number of seconds when they were handled, as the histogram of the platform says.
struct Ages(Vec<(f64, u64)>);

impl Ages {
    fn read(metrics: &str) -> Self {
        let line = |line: &str| {
            let (labels, count) = line.strip_prefix("rideshare_event_age_seconds_bucket{")?.split_once("} ")?;
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
                    "rideshare_event_age_seconds_bucket{{path=\"jetstream\",subject=\"location.update\",le=\"{le}\"}} {count}\n"
                )
            };
            let other = "rideshare_event_age_seconds_bucket{path=\"core\",subject=\"match.found\",le=\"0.5\"} 7\n";
            other.to_owned() + &line("0.5", counts[0]) + &line("1", counts[1]) + &line("+Inf", counts[2])
        };
        let ages = Ages::read(&text([60, 110, 111])).since(&Ages::read(&text([10, 10, 11])));
        assert_eq!((ages.at_most(0.5), ages.at_most(0.51), ages.at_most(1.0)), (Some(0.5), Some(1.0), Some(1.0)));
        assert_eq!(Ages::read("").at_most(0.5), None);
    }
}
