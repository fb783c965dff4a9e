//! Random sequences of operations on a memory bus and on a real server: both must give the same trace, step by step.
//!
//! A generator that knows no bus makes each sequence from a seed. Operations run at whole ticks, and everything falls due half-way
//! between two ticks, so a busy machine may delay an operation by less than half a tick without a change of order.
//!
//! - A run on the server in which an operation took longer is discarded and repeated.
//! - The memory bus also runs with random delays. If a step then differs, its order depends on the clock, and the sequence ends
//!   before that step.
//! - A difference counts if it appears three times in a row. Then the sequence is shortened as far as possible and printed with
//!   its seed.
//!
//!     DIFFERENTIAL_FROM=1000 DIFFERENTIAL_COUNT=300 scripts/test -p streams differential
//!
//! # Known differences, and how they are left out of the comparison
//!
//! | what | why | how it is left out |
//! |---|---|---|
//! | texts of errors | the server has its own texts | only the kind of [`BusError`](streams::BusError) is compared |
//! | `stored_at` | the memory bus has tokio's clock | times are used (as a replay's start), not compared |
//! | `StreamInfo::consumers` after a replay | the server's replay is an ephemeral consumer that lingers | the state of each durable consumer is compared instead |
//! | a replay of an interest or work-queue stream | that ephemeral consumer has an interest of its own, and a work queue refuses it | only streams that never were anything but limits streams are replayed |
//! | bodies of advisories | they have ids and times | only consumer, sequence and deliveries are compared |
//! | the id of a message that an interest stream did not store, because no consumer matched | the server removes it at its next cleanup, and not at the end of the duplicate window | interest streams have a window longer than any sequence, or no ids |
//! | a replay from a time that several messages have | the memory bus's clock stands still between two operations | messages before the intended one are skipped |
//! | a changed or removed filter | the memory bus drops a pending message of the old filter as soon as no consumer needs it, the server at the end of the ack wait; after a filter is removed, the server goes on counting by it | an existing consumer's filter never changes; a recreated consumer may have another |
//! | messages that a consumer gave up before it was deleted | the memory bus removes them with the consumer; the server looks only above the ack floor, and retains them | on an interest stream, consumers either give up or are deleted |
//! | a limits stream that becomes an interest stream | the server removes what is below the ack floor, the memory bus what every consumer has acknowledged | retention does not change |
//! | a short maximum age of a file stream | the server removes old messages at intervals of a second or more | only memory streams have short ages |
//! | `ack_floor` once a message was given up | the server still counts such a message as pending in its file | not compared from then on |
//! | the order of messages that are due in the same moment | the server's timer handles together what is due within about a millisecond | a step has at most one acknowledgement that sets a time |

mod drive;
mod sequence;
mod shrink;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::join_all;
use streams::Bus;
use streams::nats::{NatsBus, NatsSettings};
use tokio::task::JoinSet;

use self::drive::{LATEST, Run};
use self::sequence::Operation;
use testing::nats::Server;

/// Operations of a sequence.
const LENGTH: usize = 40;
/// Runs on the memory bus with random delays, to find the step whose order depends on the clock.
const JITTERED_RUNS: u64 = 6;
/// Attempts to run on the server without a delay that is too long.
const TRIES: u32 = 8;
/// Kinds of differences of which one example is shortened and shown.
const SHOWN: usize = 6;

/// A server and connections to it.
pub(crate) struct Rig {
    buses: Vec<Bus>,
    _server: Server,
}

/// The result of a sequence.
#[derive(Debug)]
enum Comparison {
    /// All steps were the same; this many.
    Same(usize),
    Differs(Difference),
    /// In every attempt an operation took too long: this long at least.
    TooBusy(Duration),
}

/// The first step that differs.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    step: usize,
    memory: Vec<String>,
    server: Vec<String>,
}

impl Rig {
    async fn new() -> Result<Self> {
        let server = Server::new()?;
        let mut buses = Vec::new();
        for _ in 0..4 {
            let urls = vec![server.url.clone()];
            let settings = NatsSettings { urls, name: "differential".to_owned(), ..Default::default() };
            buses.push(Bus::Nats(NatsBus::connect(&settings).await?));
        }
        Ok(Self { buses, _server: server })
    }

    /// Runs a sequence on both buses.
    async fn compare(&self, operations: &[Operation], name: &str) -> Comparison {
        let mut operations = operations.to_vec();
        // Both names have the same length, because subjects count as bytes of the stream.
        let memory = memory_trace(&mut operations, &format!("{name}_0")).await;
        let mut latest = Duration::MAX;
        for attempt in 0..TRIES {
            let prefix = format!("{name}_{attempt}");
            let bus = &self.buses[name.len() % self.buses.len()];
            let server = drive::on_server(bus, &operations, &prefix).await;
            if server.latest > LATEST {
                latest = latest.min(server.latest);
                // Sequences that failed together are not repeated together.
                tokio::time::sleep(Duration::from_secs(u64::from(attempt))).await;
                continue;
            }
            return match first_difference(&memory, &server) {
                None => Comparison::Same(memory.steps.len()),
                Some(difference) => Comparison::Differs(difference),
            };
        }
        Comparison::TooBusy(latest)
    }
}

/// The trace of the memory bus, up to the step whose order depends on the clock; `operations` are cut there too.
async fn memory_trace(operations: &mut Vec<Operation>, name: &str) -> Run {
    let (all, name) = (operations.clone(), name.to_owned());
    let run = tokio::task::spawn_blocking(move || {
        let base = drive::on_memory(&all, &name, None);
        let sure = (0..JITTERED_RUNS)
            .filter_map(|jitter| first_difference(&base, &drive::on_memory(&all, &name, Some(jitter))))
            .map(|difference| difference.step)
            .min();
        // The last step also has the advisories, so a shortened sequence runs again.
        sure.map_or_else(|| (None, base), |sure| (Some(sure), drive::on_memory(&all[..sure], &name, None)))
    });
    let (sure, run) = run.await.expect("the memory bus does not panic");
    operations.truncate(sure.unwrap_or(usize::MAX));
    run
}

impl Difference {
    /// The first lines that differ.
    fn lines(&self) -> (&str, &str) {
        let n = (0..self.memory.len().max(self.server.len())).find(|&n| self.memory.get(n) != self.server.get(n));
        let n = n.unwrap_or(0);
        (self.memory.get(n).map_or("nothing", String::as_str), self.server.get(n).map_or("nothing", String::as_str))
    }

    /// The lines without their numbers: two differences of the same kind have the same cause.
    fn kind(&self) -> (String, String) {
        let (memory, server) = self.lines();
        let without_numbers = |line: &str| line.replace(|c: char| c.is_ascii_digit(), "");
        (without_numbers(memory), without_numbers(server))
    }
}

fn first_difference(memory: &Run, server: &Run) -> Option<Difference> {
    let step = (0..memory.steps.len()).find(|&i| memory.steps[i] != server.steps[i])?;
    Some(Difference { step, memory: memory.steps[step].clone(), server: server.steps[step].clone() })
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} must be a number, not `{text}`")),
        Err(_) => Ok(default),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_sequences_give_the_same_trace_on_both_buses() -> Result<()> {
    let (from, count) = (setting("DIFFERENTIAL_FROM", 1)?, setting("DIFFERENTIAL_COUNT", 300)?);
    let rig = Arc::new(Rig::new().await?);
    let mut runs = JoinSet::new();
    for seed in from..from + count {
        let rig = rig.clone();
        runs.spawn(async move {
            // Starts are spread over a tick, so that the server's load is even.
            tokio::time::sleep(Duration::from_millis((seed - from) * 600 / count)).await;
            let operations = sequence::generate(seed, LENGTH);
            let name = format!("d{seed}");
            let mut comparison = rig.compare(&operations, &name).await;
            for again in ["a", "b"] {
                if matches!(comparison, Comparison::Differs(_)) {
                    comparison = rig.compare(&operations, &format!("{name}{again}")).await;
                }
            }
            (seed, operations, comparison)
        });
    }
    let (mut steps, mut too_busy, mut differing) = (0, Vec::new(), Vec::new());
    while let Some(run) = runs.join_next().await {
        match run? {
            (_, _, Comparison::Same(n)) => steps += n,
            (seed, _, Comparison::TooBusy(by)) => too_busy.push((seed, by)),
            (seed, operations, Comparison::Differs(difference)) => differing.push((seed, operations, difference)),
        }
    }
    println!("{count} sequences, {steps} steps compared, {} too busy, {} differ", too_busy.len(), differing.len());
    differing.sort_by_key(|(_, _, difference)| difference.step);
    let mut report = String::new();
    let mut kinds = BTreeMap::new();
    for (seed, operations, difference) in &differing {
        let (memory, server) = difference.lines();
        let operation = &operations[difference.step];
        report.push_str(&format!("seed {seed}, {operation:?}:\n  memory: {memory}\n  server: {server}\n"));
        kinds.entry(difference.kind()).or_insert((*seed, operations, difference));
    }
    // Printed before they are shortened, which takes a while.
    print!("{report}");
    let shown = kinds.values().take(SHOWN).map(|(seed, operations, difference)| {
        let rig = &rig;
        async move { format!("seed {seed}, {}", shrink::report(rig, operations, difference).await) }
    });
    report = join_all(shown).await.concat();
    assert!(differing.is_empty(), "{report}");
    // On an idle machine nearly all steps are compared. A busy one compares fewer, which is no failure.
    let enough = steps as u64 * 20 >= count * LENGTH as u64;
    assert!(enough, "only {steps} steps could be compared, the machine was too busy: {too_busy:?}");
    Ok(())
}
