//! What the commands of the program do.

pub mod audit;
pub mod dead_letters;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use platform::World;
use streams::Service;
use streams::topology::Topology;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{self, App};
use crate::bench;
use crate::settings::{City, Cli, Command, QueueType, Settings, StreamsAction};

/// Does what the command line says.
///
/// # Errors
/// A sentence for the person who typed it.
pub async fn run(cli: Cli) -> Result<ExitCode> {
    let settings = cli.settings;
    match cli.command {
        None => serve(&settings, &[]).await,
        Some(Command::Run { services }) => serve(&settings, &services).await,
        Some(Command::Demo(city)) => demo(settings, &city).await,
        Some(Command::Simulate { url, rides_url, city }) => simulate(url, rides_url, &city).await,
        Some(Command::Streams { action }) => topology(&settings, action).await,
        Some(Command::Audit { action }) => audit::run(&settings, &action).await,
        Some(Command::DeadLetters { action }) => dead_letters::run(&settings, &action).await,
        Some(Command::Migrate) => {
            app::migrate(&settings).await?;
            println!("all schemas are up to date");
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Bench(what)) => bench::run(&settings, &what).await,
    }
}

async fn serve(settings: &Settings, services: &[Service]) -> Result<ExitCode> {
    let services = if services.is_empty() { &Service::ALL[..] } else { services };
    let names = services.iter().map(|s| s.name()).collect::<Vec<_>>().join(", ");
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut app = tokio::select! {
        biased;
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        app = App::start(settings, services, World::real()) => app?,
    };
    if settings.database_url.is_none() {
        tracing::warn!("state is in memory and gone at exit: set DATABASE_URL to keep it");
    } else if settings.queue_type == QueueType::Memory {
        tracing::warn!("the bus is in memory: events under way are gone at exit, although the database stays");
    }
    tracing::info!(pod = %app.platform.pod, "{names}: http://{}", app.addr);
    let code = tokio::select! {
        biased;
        _ = interrupt.recv() => ExitCode::SUCCESS,
        _ = terminate.recv() => ExitCode::SUCCESS,
        why = app.broken() => {
            tracing::error!("{why}");
            ExitCode::FAILURE
        }
    };
    tracing::info!("stopping");
    let drained = tokio::select! {
        biased;
        drained = app.stop() => drained,
        // A second signal: the person does not want to wait.
        _ = interrupt.recv() => false,
    };
    if !drained {
        tracing::warn!(
            "stopped before everything was done; what was acknowledged is kept, and goes on at the next start"
        );
    }
    Ok(code)
}

fn city_config(urls: Vec<String>, rides_url: Option<String>, city: &City) -> Result<simulator::Config> {
    let mut config = simulator::Config {
        urls,
        rides_url,
        drivers: city.drivers,
        passengers: city.passengers,
        rides: city.rides,
        time_limit: Duration::from_secs(city.max_s),
        seed: city.seed,
        speed: city.speed,
        progress: true,
        ..simulator::Config::default()
    };
    if city.calm {
        config.faults = simulator::Faults::none();
    }
    if let Some(path) = &city.requests {
        config.requests = Some(simulator::read_requests(path, None)?);
    }
    Ok(config)
}

async fn simulate(urls: Vec<String>, rides_url: Option<String>, city: &City) -> Result<ExitCode> {
    let summary = simulator::run(city_config(urls, rides_url, city)?).await?;
    println!("{summary}");
    Ok(if summary.violations.is_empty() && summary.completed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn demo(mut settings: Settings, city: &City) -> Result<ExitCode> {
    anyhow::ensure!(settings.embedded(), "demo runs embedded: unset QUEUE_TYPE and DATABASE_URL, or use simulate");
    settings.http_addr = ([127, 0, 0, 1], 0).into();
    settings.otp_delivery = Some("response".to_owned());
    // The simulated drivers move faster than life; so must the limit of what is no jump.
    settings.track_max_speed_mps = settings.track_max_speed_mps.max(70.0 * city.speed.max(1.0));
    let app = App::start(&settings, &Service::ALL, World::real()).await?;
    eprintln!("the platform runs embedded at http://{}: memory bus, state in memory", app.addr);
    let result = simulate(vec![format!("http://{}", app.addr)], None, city).await;
    let drained = app.stop().await;
    anyhow::ensure!(drained, "the platform did not stop in time");
    result
}

async fn topology(settings: &Settings, action: StreamsAction) -> Result<ExitCode> {
    let topology = Topology::rideshare();
    topology.prove().map_err(|faults| anyhow::anyhow!("the topology is not sound: {}", faults.join("; ")))?;
    if let StreamsAction::Export { directory } = action {
        return export(&topology, &directory, settings.nats_replicas);
    }
    anyhow::ensure!(
        settings.queue_type == QueueType::Nats,
        "a memory bus has no server: set QUEUE_TYPE=nats and NATS_URL"
    );
    let bus = app::bus(settings, &World::real(), "streams").await?;
    let topology = topology.with_sweeper();
    if matches!(action, StreamsAction::Apply) {
        for change in bus.apply(&topology).await? {
            println!("{change}");
        }
        println!("{} streams and {} consumers are as they must be", topology.streams.len(), topology.consumers.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<20} {:<34} {:>9} {:>12} {:>9} {:>9}", "stream", "consumer", "messages", "bytes", "pending", "unacked");
    for stream in &topology.streams {
        match bus.stream_info(&stream.name).await {
            Ok(info) => println!("{:<20} {:<34} {:>9} {:>12}", stream.name, "", info.messages, info.bytes),
            Err(error) => println!("{:<20} {error}", stream.name),
        }
        for consumer in topology.consumers.iter().filter(|c| c.stream == stream.name) {
            match bus.consumer_info(&stream.name, &consumer.durable).await {
                Ok(info) => {
                    println!(
                        "{:<20} {:<34} {:>9} {:>12} {:>9} {:>9}",
                        "", consumer.durable, "", "", info.pending, info.ack_pending
                    );
                }
                Err(error) => println!("{:<20} {:<34} {error}", "", consumer.durable),
            }
        }
    }
    let differences = bus.compare(&topology).await?;
    for difference in &differences {
        println!("differs: {difference}");
    }
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn export(topology: &Topology, directory: &Path, replicas: usize) -> Result<ExitCode> {
    let consumers = directory.join("consumers");
    std::fs::create_dir_all(&consumers).with_context(|| format!("cannot make {}", consumers.display()))?;
    let write = |path: std::path::PathBuf, config: serde_json::Value| -> Result<()> {
        let text = serde_json::to_string_pretty(&config)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    for stream in &topology.streams {
        write(directory.join(format!("{}.json", stream.name)), stream.to_json(replicas))?;
    }
    for consumer in &topology.consumers {
        write(consumers.join(format!("{}.json", consumer.durable)), consumer.to_json())?;
    }
    println!("{}: {} streams, {} consumers", directory.display(), topology.streams.len(), topology.consumers.len());
    Ok(ExitCode::SUCCESS)
}
