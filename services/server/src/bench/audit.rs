//! The audit trail: how fast it is replayed, verified and made into tables again, beside a raw ordered consumer in the same run.

use std::io::{self, BufWriter};
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream::{self, consumer::pull};
use bytes::Bytes;
use clap::Parser;
use futures_util::StreamExt;
use platform::{World, outbox};
use pricing::Tariffs;
use rides::audit::{Audit, STREAM};
use rides::payment::Provider;
use rides::ride::{Distance, Order, Outcome, PinTries, Ride, decide};
use streams::event::{MatchAccepted, Party, RideEvent};
use streams::topology::Topology;
use streams::{Bus, Event, Message, Position, Service, VehicleType};
use tokio::time::Instant;

use super::{Row, row};
use crate::commands::audit::{audit, replay};
use crate::settings::{Cli, Command, QueueType, Settings};

/// Rides under way at once; their events come in turns.
const AT_ONCE: usize = 500;

/// Fills an empty RIDE_STREAM with `events` events of made-up rides, sealed as real ones are, and measures what reads them.
pub(super) async fn measure(settings: &Settings, world: &World, events: usize) -> Result<Vec<Row>> {
    let mut settings = settings.clone();
    settings.queue_type = QueueType::Nats;
    let bus = crate::app::bus(&settings, world, "bench").await?;
    let mut topology = Topology::rideshare();
    topology.streams.retain(|stream| stream.name == STREAM);
    topology.consumers.clear();
    bus.apply(&topology).await?;
    let found = bus.stream_info(STREAM).await?.messages;
    ensure!(
        found == 0,
        "{STREAM} has {found} messages: this fills it with made-up rides, and needs servers of its own"
    );
    let audit = audit(&settings, &bus, world).await?;
    eprintln!("{events} events of rides …");
    fill(&bus, world, events).await?;
    let messages = bus.stream_info(STREAM).await?.messages;
    // The first reader finds the server's caches cold.
    raw(&settings, messages).await?;
    let mut raw_rates = vec![raw(&settings, messages).await?];
    let replayed = replayed(&bus, world, messages).await?;
    raw_rates.push(raw(&settings, messages).await?);
    let began = Instant::now();
    let rebuilt = audit.rebuild(Provider::Ledger).await?;
    let rebuild = rate(messages, began);
    ensure!(rebuilt.events == messages, "rebuilt {} of {messages} events: {:?}", rebuilt.events, rebuilt.findings);
    let verified = verified(&audit, messages).await?;
    raw_rates.push(raw(&settings, messages).await?);
    let raw_rate = raw_rates.iter().sum::<f64>() / raw_rates.len() as f64;
    let line = |name: &str, found: f64, mark| {
        row(name, format!("{found:.0} events/s"), mark, format!("{:.2} (raw {raw_rate:.0}/s)", found / raw_rate))
    };
    let mut rows = vec![
        line("audit replay, JSON lines", replayed, "0.5 of raw"),
        line("audit verify, stream and database", verified, "–"),
        line("audit rebuild", rebuild, "–"),
    ];
    if let Some(peak) = peak_memory() {
        rows.push(row(format!("memory at most, {messages} events"), format!("{peak} MiB"), "bounded", "–"));
    }
    Ok(rows)
}

fn rate(messages: u64, began: Instant) -> f64 {
    messages as f64 / began.elapsed().as_secs_f64()
}

async fn fill(bus: &Bus, world: &World, events: usize) -> Result<()> {
    let mut made = 0;
    while made < events {
        let mut rides: Vec<Ride> = Vec::with_capacity(AT_ONCE);
        for step in 0..4 {
            let mut messages = Vec::with_capacity(AT_ONCE);
            for n in 0..AT_ONCE.min((events - made).div_ceil(4)) {
                let (ride, event) = match rides.get(n) {
                    None => {
                        let change = Ride::create(&accepted(world), world.id(), world.now());
                        (change.ride, change.event)
                    }
                    Some(ride) => advanced(world, ride, step)?,
                };
                messages.push(message(world, event));
                match rides.get_mut(n) {
                    Some(before) => *before = ride,
                    None => rides.push(ride),
                }
            }
            for stored in bus.publish_all(messages).await {
                stored?;
            }
        }
        made += rides.len() * 4;
    }
    Ok(())
}

fn accepted(world: &World) -> MatchAccepted {
    let place = |base: f64| base + f64::from(world.below(100_000)) * 1e-6;
    MatchAccepted {
        match_id: world.id(),
        request_id: world.id(),
        driver_id: world.id(),
        passenger_id: world.id(),
        pickup: Position { lat: place(40.7), lng: place(-74.0) },
        dropoff: Position { lat: place(40.7), lng: place(-74.0) },
        vehicle_type: VehicleType::Car,
        accepted_at: world.now(),
    }
}

fn advanced(world: &World, ride: &Ride, step: usize) -> Result<(Ride, RideEvent)> {
    let (by, order) = match step {
        1 => (Party::Driver, Order::Start { pin: "1", right: "1", tries: PinTries::default() }),
        2 => (Party::Driver, Order::Arrive),
        _ => (Party::System, Order::Complete(Distance::Measured(1_000.0 + f64::from(world.below(9_000))))),
    };
    match decide(ride, by, &order, &Tariffs::default(), world.now())? {
        Outcome::Changed(change) => Ok((change.ride, change.event)),
        other => bail!("a made-up ride does not go on: {other:?}"),
    }
}

fn message(world: &World, event: RideEvent) -> Message {
    let (at, ride) = (event.occurred_at, event.ride_id.to_string());
    let event = Event::Ride(Box::new(event));
    let (id, body) = (event.message_id(at), Bytes::from(event.body()));
    outbox::message(event.subject().as_str(), &id, &ride, at, world.trace().as_str(), Service::Rides, body)
}

/// The client library's ordered consumer, with nothing done to what it reads.
async fn raw(settings: &Settings, messages: u64) -> Result<f64> {
    let client = async_nats::connect(settings.nats_url.clone()).await.context("NATS_URL")?;
    let stream = jetstream::new(client).get_stream(STREAM).await?;
    let consumer = stream.create_consumer(pull::OrderedConfig::default()).await?;
    let began = Instant::now();
    let mut read = consumer.messages().await?.take(usize::try_from(messages)?);
    let mut bytes = 0;
    while let Some(message) = read.next().await {
        bytes += message?.payload.len();
    }
    ensure!(bytes > 0, "{STREAM} is empty");
    Ok(rate(messages, began))
}

async fn replayed(bus: &Bus, world: &World, messages: u64) -> Result<f64> {
    let cli = Cli::try_parse_from(["rideshare", "audit", "replay", "--format", "json"])?;
    let Some(Command::Audit { action: crate::commands::audit::AuditAction::Replay(what) }) = cli.command else {
        bail!("no replay")
    };
    let seen = AtomicU64::new(0);
    let began = Instant::now();
    replay::replay(bus, world, &what, &mut BufWriter::new(io::sink()), &seen).await?;
    let seen = seen.into_inner();
    ensure!(seen == messages, "replayed {seen} of {messages}");
    Ok(rate(messages, began))
}

async fn verified(audit: &Audit, messages: u64) -> Result<f64> {
    let began = Instant::now();
    let report = audit.verify().await?;
    ensure!(report.findings.count() == 0, "the trail made here is not sound: {}", report.findings.listed()[0]);
    ensure!((report.messages, report.events) == (messages, messages), "verified only a part: {report:?}");
    Ok(rate(messages, began))
}

/// The most memory that this process ever had, MiB; where /proc tells it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib / 1_024)
}
