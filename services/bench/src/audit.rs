//! `rideshare audit`: how fast RIDE_STREAM is replayed, verified and rebuilt into tables, beside a raw ordered consumer in the
//! same run.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream::{self, consumer::pull};
use bytes::Bytes;
use futures_util::StreamExt;
use platform::{World, relay};
use pricing::Tariffs;
use rides::audit::STREAM;
use rides::ride::{CommandInput, Distance, Outcome, PinTries, Ride, decide};
use streams::event::{MatchAccepted, Party, RideEvent};
use streams::nats::{NatsBus, NatsSettings};
use streams::topology::Topology;
use streams::{Bus, Event, Message, Position, Service, VehicleType};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::{Instant, interval};

use crate::table::{Row, row};
use crate::target::{Servers, memory_of};

/// Rides under way at once; their events are interleaved.
const AT_ONCE: usize = 500;
/// Events of a ride.
const STEPS: usize = 4;

/// Fills an empty RIDE_STREAM with `events` events of made-up rides, with valid hash chains, and measures what reads them.
pub(super) async fn measure(binary: &Path, servers: &Servers, world: &World, events: usize) -> Result<Vec<Row>> {
    let settings =
        NatsSettings { urls: servers.nats_url.clone(), name: "rideshare-bench".to_owned(), ..Default::default() };
    let bus = Bus::Nats(NatsBus::connect(&settings).await.context("NATS_URL")?);
    let mut topology = Topology::rideshare();
    topology.streams.retain(|stream| stream.name == STREAM);
    topology.consumers.clear();
    bus.apply(&topology).await?;
    let found = bus.stream_info(STREAM).await?.messages;
    ensure!(
        found == 0,
        "{STREAM} has {found} messages: this fills it with made-up rides, and needs servers of its own"
    );
    eprintln!("{events} events of rides …");
    fill(&bus, world, events).await?;
    let messages = bus.stream_info(STREAM).await?.messages;
    rideshare(binary, servers, &["migrate"]).await?;
    // The server's caches are cold for the first reader.
    raw(servers, messages).await?;
    let mut raw_rates = vec![raw(servers, messages).await?];
    let replay = rideshare(binary, servers, &["audit", "replay", "--format", "json"]).await?;
    ensure!(replay.lines == messages, "replayed {} of {messages}", replay.lines);
    raw_rates.push(raw(servers, messages).await?);
    let rebuild = rideshare(binary, servers, &["audit", "rebuild"]).await?;
    ensure!(rebuild.output.contains(&format!("{messages} messages")), "rebuilt only a part: {}", rebuild.output);
    let verify = rideshare(binary, servers, &["audit", "verify"]).await?;
    ensure!(verify.output.contains(&format!("{messages} messages")), "verified only a part: {}", verify.output);
    raw_rates.push(raw(servers, messages).await?);
    let raw_rate = raw_rates.iter().sum::<f64>() / raw_rates.len() as f64;
    let line = |name: &str, run: &Run, mark| {
        let rate = messages as f64 / run.took.as_secs_f64();
        row(name, format!("{rate:.0} events/s"), mark, format!("{:.2} (raw {raw_rate:.0}/s)", rate / raw_rate))
    };
    let mut rows = vec![
        line("audit replay, JSON lines", &replay, "0.5 of raw"),
        line("audit verify, stream and database", &verify, "–"),
        line("audit rebuild", &rebuild, "–"),
    ];
    if let Some(peak) = [&replay, &rebuild, &verify].iter().filter_map(|run| run.peak_bytes).max() {
        let name = format!("memory at most, {messages} events");
        rows.push(row(name, format!("{} MiB", peak >> 20), "bounded", "–"));
    }
    Ok(rows)
}

/// A command of `rideshare` that has ended well.
struct Run {
    took: Duration,
    /// The most resident memory, where /proc tells it.
    peak_bytes: Option<u64>,
    /// Lines on standard output.
    lines: u64,
    /// The first of them.
    output: String,
}

async fn rideshare(binary: &Path, servers: &Servers, args: &[&str]) -> Result<Run> {
    let began = Instant::now();
    let mut child = Command::new(binary)
        .args(args)
        .args(["--queue-type", "nats", "--nats-url", &servers.nats_url.join(","), "--log", "error"])
        .args(["--database-url", &servers.database_url])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    let mut stdout = child.stdout.take().context("no standard output")?;
    let (mut peak_bytes, mut lines, mut output) = (None, 0, Vec::new());
    let (mut buffer, mut look) = (vec![0; 1 << 18], interval(Duration::from_millis(50)));
    loop {
        tokio::select! {
            biased;
            _ = look.tick() => {
                peak_bytes = child.id().and_then(|process| memory_of(process, "VmHWM:")).or(peak_bytes);
            }
            read = stdout.read(&mut buffer) => {
                let read = &buffer[..read?];
                if read.is_empty() {
                    break;
                }
                lines += read.iter().filter(|byte| **byte == b'\n').count() as u64;
                if output.len() < 4_096 {
                    output.extend_from_slice(&read[..read.len().min(4_096)]);
                }
            }
        }
    }
    let status = child.wait().await?;
    let output = String::from_utf8_lossy(&output).into_owned();
    ensure!(status.success(), "rideshare {}: {status}: {output}", args.join(" "));
    Ok(Run { took: began.elapsed(), peak_bytes, lines, output })
}

async fn fill(bus: &Bus, world: &World, events: usize) -> Result<()> {
    let mut written = 0;
    while written < events {
        let mut rides: Vec<Ride> = Vec::with_capacity(AT_ONCE);
        for step in 0..STEPS {
            let mut messages = Vec::with_capacity(AT_ONCE);
            for n in 0..AT_ONCE.min((events - written).div_ceil(STEPS)) {
                let (ride, event) = match rides.get(n) {
                    None => {
                        let change = Ride::create(&accepted(world), world.id(), None, world.now());
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
        written += rides.len() * STEPS;
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
        market_id: None,
        terms: None,
        accepted_at: world.now(),
    }
}

fn advanced(world: &World, ride: &Ride, step: usize) -> Result<(Ride, RideEvent)> {
    let (by, order) = match step {
        1 => (Party::Driver, CommandInput::Start { pin: "1", right: "1", tries: PinTries::default() }),
        2 => (Party::Driver, CommandInput::Arrive),
        _ => (Party::System, CommandInput::Complete(Distance::Measured(1_000.0 + f64::from(world.below(9_000))))),
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
    relay::message(event.subject().as_str(), &id, &ride, at, world.trace().as_str(), Service::Rides, body)
}

/// Events a second of the client library's ordered consumer, with nothing done to what it reads.
async fn raw(servers: &Servers, messages: u64) -> Result<f64> {
    let client = async_nats::connect(servers.nats_url.clone()).await.context("NATS_URL")?;
    let stream = jetstream::new(client).get_stream(STREAM).await?;
    let consumer = stream.create_consumer(pull::OrderedConfig::default()).await?;
    let began = Instant::now();
    let mut read = consumer.messages().await?.take(usize::try_from(messages)?);
    let mut bytes = 0;
    while let Some(message) = read.next().await {
        bytes += message?.payload.len();
    }
    ensure!(bytes > 0, "{STREAM} is empty");
    Ok(messages as f64 / began.elapsed().as_secs_f64())
}
