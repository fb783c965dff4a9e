//! Random sequences of operations on a memory bus and on a real server: both must show the same, step by step.
//!
//! A sequence comes from its seed by a generator that knows no bus. Each operation has a tick of its own, and whatever falls
//! due does so half-way between two, so that what a busy machine delays is seen in the right order all the same. A run on
//! the server in which an operation took too long for that is thrown away and done again. Where even the memory bus shows
//! something else when operations are some tens of milliseconds late, the order of things hangs on the clock, and the
//! sequence ends before that step. A difference counts if it comes again twice; then it is made as short as it can be and
//! printed with its seed.
//!
//!     DIFFERENTIAL_FROM=1000 DIFFERENTIAL_COUNT=300 scripts/test -p streams differential
//!
//! # What differs by nature, and is not compared
//!
//! | what | why | how it is kept out |
//! |---|---|---|
//! | texts of errors | the server's words are its own | only which [`BusError`](streams::BusError) it is |
//! | `stored_at`, the pace of time | memory's clock is tokio's | times are used (a replay from one), not compared |
//! | `StreamInfo::consumers` after a replay | the server's reader is an ephemeral consumer, which lingers | not compared; each consumer's own state is |
//! | a replay of an interest or work-queue stream | that ephemeral consumer has an interest of its own, and a work queue refuses it | replayed are streams that only ever were limits streams |
//! | bodies of advisories but for stream, consumer, sequence and deliveries | ids and times | those are not read |
//! | the id of a message that an interest stream did not store, for nobody wanted it | the server remembers it until it next looks for old ones, and not for the window | interest streams have a window that no sequence outlasts, or no ids |
//! | a replay from a time that several messages have | memory's clock stands still between two operations | those before the one meant are passed over |
//! | a filter that is changed or taken away | what is in flight under the old one memory forgets as soon as nobody wants it, the server when the ack wait is over; a filter that was taken away the server goes on counting by | a consumer keeps its filter while it lives; another comes with a new consumer of that name |
//! | what a consumer gave up before it was deleted | memory lets it go with the consumer; the server looks above the ack floor only, and keeps it | on interest streams either consumers give up or they are deleted |
//! | a limits stream that becomes an interest stream | the server releases what is below the ack floor, memory what everybody has acknowledged | retention does not change |
//! | a short maximum age of a stream in files | the server looks for old messages when it sees fit, a second or more apart | short ages in memory streams only |
//! | `ack_floor` once a message was given up | the server keeps such a message in its file as pending | not compared from then on |
//! | the order of what comes due in the same moment | the server's timer takes back in one go what is due within about a millisecond | one timed answer a step |

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
/// Runs on memory with operations late by chance, to find where a sequence hangs on the clock.
const JITTERED_RUNS: u64 = 6;
/// Runs on the server until one is undisturbed.
const TRIES: u32 = 8;
/// Kinds of differences of which one is made short and shown.
const SHOWN: usize = 6;

/// Connections to the server, and names that were not used yet.
pub(crate) struct Field {
    buses: Vec<Bus>,
    _server: Server,
}

/// How a sequence fared.
#[derive(Debug)]
enum Verdict {
    /// So many steps were the same on both.
    Same(usize),
    Differs(Difference),
    /// The machine was too busy each time.
    Disturbed(Duration),
}

/// The first step that differs.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    step: usize,
    memory: Vec<String>,
    server: Vec<String>,
}

impl Field {
    async fn new() -> Result<Self> {
        let server = Server::new()?;
        let mut buses = Vec::new();
        for _ in 0..4 {
            let urls = vec![server.url.clone()];
            let settings = NatsSettings { urls, creds: None, ca: None, replicas: 1, name: "differential".to_owned() };
            buses.push(Bus::Nats(NatsBus::connect(&settings).await?));
        }
        Ok(Self { buses, _server: server })
    }

    /// Runs a sequence on both buses.
    async fn compare(&self, operations: &[Operation], name: &str) -> Verdict {
        let mut operations = operations.to_vec();
        // (Names count as bytes of the stream: theirs are of one length.)
        let memory = memory_trace(&mut operations, &format!("{name}_0")).await;
        let mut latest = Duration::MAX;
        for attempt in 0..TRIES {
            let prefix = format!("{name}_{attempt}");
            let bus = &self.buses[name.len() % self.buses.len()];
            let server = drive::on_server(bus, &operations, &prefix).await;
            if server.latest > LATEST {
                latest = latest.min(server.latest);
                // Not all of them again at once.
                tokio::time::sleep(Duration::from_secs(u64::from(attempt))).await;
                continue;
            }
            return match first_difference(&memory, &server) {
                None => Verdict::Same(memory.steps.len()),
                Some(difference) => Verdict::Differs(difference),
            };
        }
        Verdict::Disturbed(latest)
    }
}

/// What memory shows, up to where it hangs on the clock; `operations` end there too.
async fn memory_trace(operations: &mut Vec<Operation>, name: &str) -> Run {
    let (all, name) = (operations.clone(), name.to_owned());
    let run = tokio::task::spawn_blocking(move || {
        let base = drive::on_memory(&all, &name, None);
        let sure = (0..JITTERED_RUNS)
            .filter_map(|jitter| first_difference(&base, &drive::on_memory(&all, &name, Some(jitter))))
            .map(|difference| difference.step)
            .min();
        // The last step shows the advisories too, so what is cut is run again.
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

    /// What kind of difference it is: the same lines but for numbers.
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
    let field = Arc::new(Field::new().await?);
    let mut runs = JoinSet::new();
    for seed in from..from + count {
        let field = field.clone();
        runs.spawn(async move {
            // Spread over a tick, so that the server's work is even.
            tokio::time::sleep(Duration::from_millis((seed - from) * 600 / count)).await;
            let operations = sequence::generate(seed, LENGTH);
            let name = format!("d{seed}");
            let mut verdict = field.compare(&operations, &name).await;
            for again in ["a", "b"] {
                if matches!(verdict, Verdict::Differs(_)) {
                    verdict = field.compare(&operations, &format!("{name}{again}")).await;
                }
            }
            (seed, operations, verdict)
        });
    }
    let (mut steps, mut disturbed, mut differing) = (0, Vec::new(), Vec::new());
    while let Some(run) = runs.join_next().await {
        match run? {
            (_, _, Verdict::Same(n)) => steps += n,
            (seed, _, Verdict::Disturbed(by)) => disturbed.push((seed, by)),
            (seed, operations, Verdict::Differs(difference)) => differing.push((seed, operations, difference)),
        }
    }
    println!("{count} sequences, {steps} steps compared, {} disturbed, {} differ", disturbed.len(), differing.len());
    differing.sort_by_key(|(_, _, difference)| difference.step);
    let mut report = String::new();
    let mut kinds = BTreeMap::new();
    for (seed, operations, difference) in &differing {
        let (memory, server) = difference.lines();
        let operation = &operations[difference.step];
        report.push_str(&format!("seed {seed}, {operation:?}:\n  memory: {memory}\n  server: {server}\n"));
        kinds.entry(difference.kind()).or_insert((*seed, operations, difference));
    }
    // At once, for it takes a while to make them short.
    print!("{report}");
    let shown = kinds.values().take(SHOWN).map(|(seed, operations, difference)| {
        let field = &field;
        async move { format!("seed {seed}, {}", shrink::report(field, operations, difference).await) }
    });
    report = join_all(shown).await.concat();
    assert!(differing.is_empty(), "{report}");
    // On a machine of its own it is nearly all; on a busy one it sees less, and is not wrong.
    let enough = steps as u64 * 20 >= count * LENGTH as u64;
    assert!(enough, "only {steps} steps could be compared, the machine was too busy: {disturbed:?}");
    Ok(())
}
