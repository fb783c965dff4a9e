//! `rideshare streams`: the topology of this program against that of a NATS server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use chrono::TimeDelta;
use clap::Subcommand;
use platform::World;
use streams::Bus;
use streams::topology::Topology;

use super::nats_permissions;
use crate::app;
use crate::output::{out, outln};
use crate::settings::{QueueType, Settings};

/// How far back a stream is delivered again, however long it stores its messages. A service knows what it has handled for 8 days (see
/// `Store::purge`): what is older it would handle twice.
const REWIND: TimeDelta = TimeDelta::days(7);

#[derive(Debug, Subcommand)]
pub enum StreamsAction {
    /// Show streams and consumers and what differs on the server; status 1 if something does.
    Show,
    /// Create or update what differs.
    Apply,
    /// Deliver the last 7 days of RIDE_STREAM again to all its consumers, after a restore of the database to an earlier moment: what a service
    /// has handled, it drops. No service may run meanwhile.
    Rewind,
    /// Print the users of a nats-server and what each may do, as a part of its configuration: `docker/nats-users.conf`.
    Permissions,
    /// Write a file for each stream and consumer, as `nats stream add --config` and `nats consumer add --config` take it.
    Export {
        /// The directory.
        #[arg(default_value = "streams")]
        directory: PathBuf,
    },
}

/// Does what the command line says.
///
/// # Errors
/// If the topology is not sound, the server cannot be reached, or a file cannot be written.
pub async fn run(settings: &Settings, action: StreamsAction) -> Result<ExitCode> {
    let topology = settings.stream_sizes.topology();
    streams::topology::prove(&topology)
        .map_err(|faults| anyhow!("the topology is not sound: {}", faults.join("; ")))?;
    if let StreamsAction::Export { directory } = action {
        return export(&topology, &directory, settings.nats_replicas);
    }
    if matches!(action, StreamsAction::Permissions) {
        out!("{}", nats_permissions::configuration(&topology, &settings.core_nats_queue_group))?;
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(settings.queue_type == QueueType::Nats, "a memory bus has no server: set QUEUE_TYPE=nats and NATS_URL");
    let bus = app::bus(settings, &World::real(), "streams").await?;
    let topology = topology.with_sweeper();
    if matches!(action, StreamsAction::Rewind) {
        let from = bus.server_time(rides::audit::STREAM).await? - REWIND;
        for consumer in topology.consumers.iter().filter(|consumer| consumer.stream == rides::audit::STREAM) {
            bus.recreate_consumer(consumer, from).await?;
        }
    }
    if matches!(action, StreamsAction::Apply | StreamsAction::Rewind) {
        for change in bus.apply(&topology).await? {
            outln!("{change}")?;
        }
        outln!("{} streams and {} consumers are as they must be", topology.streams.len(), topology.consumers.len())?;
        return Ok(ExitCode::SUCCESS);
    }
    show(&bus, &topology).await
}

async fn show(bus: &Bus, topology: &Topology) -> Result<ExitCode> {
    outln!("{:<20} {:<34} {:>9} {:>12} {:>9} {:>9}", "stream", "consumer", "messages", "bytes", "pending", "unacked")?;
    for stream in &topology.streams {
        match bus.stream_info(&stream.name).await {
            Ok(info) => outln!("{:<20} {:<34} {:>9} {:>12}", stream.name, "", info.messages, info.bytes)?,
            Err(error) => outln!("{:<20} {error}", stream.name)?,
        }
        for consumer in topology.consumers.iter().filter(|c| c.stream == stream.name) {
            match bus.consumer_info(&stream.name, &consumer.durable).await {
                Ok(info) => {
                    outln!(
                        "{:<20} {:<34} {:>9} {:>12} {:>9} {:>9}",
                        "",
                        consumer.durable,
                        "",
                        "",
                        info.pending,
                        info.ack_pending
                    )?;
                }
                Err(error) => outln!("{:<20} {:<34} {error}", "", consumer.durable)?,
            }
        }
    }
    let differences = bus.compare(topology).await?;
    for difference in &differences {
        outln!("differs: {difference}")?;
    }
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn export(topology: &Topology, directory: &Path, replicas: usize) -> Result<ExitCode> {
    let consumers = directory.join("consumers");
    std::fs::create_dir_all(&consumers).with_context(|| format!("cannot create {}", consumers.display()))?;
    let write = |path: PathBuf, config: serde_json::Value| -> Result<()> {
        let text = serde_json::to_string_pretty(&config)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    for stream in &topology.streams {
        write(directory.join(format!("{}.json", stream.name)), stream.to_json(replicas))?;
    }
    for consumer in &topology.consumers {
        write(consumers.join(format!("{}.json", consumer.durable)), consumer.to_json())?;
    }
    outln!("{}: {} streams, {} consumers", directory.display(), topology.streams.len(), topology.consumers.len())?;
    Ok(ExitCode::SUCCESS)
}
