//! The proof that a topology is sound, without a server.

use std::collections::BTreeSet;

use super::config::{Consumer, Retention, Stream, subject_matches};
use super::table::{TRIES, Topology};
use crate::event::Service;

/// Proves that every subject of an interest or work-queue stream has its consumers, that consumer names follow the rule, that
/// duplicate windows are within the age limit, and that every bound is set.
///
/// # Errors
/// A sentence for each fault.
pub fn prove(topology: &Topology) -> Result<(), Vec<String>> {
    let mut faults = Vec::new();
    let mut names = BTreeSet::new();
    for consumer in &topology.consumers {
        if !names.insert(&consumer.durable) {
            faults.push(format!("consumer {} is listed twice", consumer.durable));
        }
        prove_consumer(topology, consumer, &mut faults);
    }
    for stream in &topology.streams {
        prove_stream(topology, stream, &mut faults);
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

fn prove_consumer(topology: &Topology, consumer: &Consumer, faults: &mut Vec<String>) {
    let Consumer { durable, filter, .. } = consumer;
    let Some(stream) = topology.streams.iter().find(|s| s.name == consumer.stream) else {
        faults.push(format!("consumer {durable} reads {}, which is no stream", consumer.stream));
        return;
    };
    if !stream.subjects.iter().any(|s| subject_matches(s, filter)) {
        faults.push(format!("consumer {durable}: {} does not carry {filter}", stream.name));
    }
    let prefix = filter.replace('.', "_");
    if !Service::ALL.iter().any(|service| *durable == format!("{prefix}_{}", service.name())) {
        faults
            .push(format!("consumer {durable}: the name must be <subject with _>_<service> for the subject {filter}"));
    }
    if consumer.ack_wait.is_zero() || consumer.max_ack_pending <= 0 || consumer.max_deliver <= TRIES as i64 {
        faults.push(format!(
            "consumer {durable}: ack wait and max ack pending must be set, and max deliver above {TRIES}"
        ));
    }
}

fn prove_stream(topology: &Topology, stream: &Stream, faults: &mut Vec<String>) {
    if stream.duplicate_window > stream.max_age {
        faults.push(format!("stream {}: the duplicate window is longer than the maximum age", stream.name));
    }
    if stream.max_bytes <= 0 {
        faults.push(format!("stream {}: bytes are not bounded", stream.name));
    }
    for subject in &stream.subjects {
        let readers = topology.consumers.iter().filter(|c| c.stream == stream.name && c.filter == *subject).count();
        match stream.retention {
            Retention::Interest if readers == 0 => faults
                .push(format!("{subject} on {} has no consumer: what is published there would be lost", stream.name)),
            Retention::WorkQueue if readers != 1 => {
                faults.push(format!("{subject} on {} needs exactly one consumer and has {readers}", stream.name));
            }
            Retention::Limits | Retention::Interest | Retention::WorkQueue => {}
        }
    }
}
