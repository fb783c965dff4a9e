//! The configuration of one stream or consumer: its fields, its JSON for the server, and how it differs from what the server has.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::event::rfc3339;

/// When a stream removes a message, apart from its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Never: only a limit removes it.
    Limits,
    /// As soon as every consumer whose filter matched when the message came has acknowledged it.
    Interest,
    /// As soon as the one consumer of its subject has acknowledged it.
    WorkQueue,
}

/// Where a stream stores its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On disk.
    File,
    /// In the server's memory; stream and consumers are gone after a restart.
    Memory,
    /// In the server's memory, or on disk if the server has no memory for it.
    MemoryOrFile,
}

/// What a stream at its limit of bytes does with a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// Refuses it; the publisher gets an error.
    New,
    /// Stores it and removes the oldest messages.
    Old,
}

/// A stream's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Unique on a server; without dots, wildcards and white space.
    pub name: String,
    /// The subjects that it captures, with NATS wildcards; no two streams may overlap.
    pub subjects: Vec<String>,
    /// When an acknowledgement removes a message.
    pub retention: Retention,
    /// Cannot be changed later.
    pub storage: Storage,
    /// What happens to a publish when the stream is full.
    pub discard: Discard,
    /// A message older than this is removed; zero for no limit.
    pub max_age: Duration,
    /// The most bytes that it stores; −1 for no bound.
    pub max_bytes: i64,
    /// For how long a message with a `Nats-Msg-Id` that the stream has seen is a duplicate.
    pub duplicate_window: Duration,
}

/// The configuration of a durable pull consumer with explicit acknowledgement, from the stream's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// The stream that it reads.
    pub stream: String,
    /// Its name: `<subject with dots as underscores>_<service>`.
    pub durable: String,
    /// The subject that it reads, with NATS wildcards; empty for all.
    pub filter: String,
    /// After so long without an acknowledgement the message is redelivered.
    pub ack_wait: Duration,
    /// Deliveries of one message before the server gives it up; −1 for no bound.
    pub max_deliver: i64,
    /// Messages delivered and not acknowledged before the server pauses.
    pub max_ack_pending: i64,
    /// Ack waits by delivery, the last one for all after it; empty: always `ack_wait`. They do not delay a `nak`.
    pub backoff: Vec<Duration>,
}

const DELIVER_POLICY: &str = "deliver_policy";
/// The policy of a consumer that was made again to deliver once more.
const BY_START_TIME: &str = "by_start_time";

/// The stream of dead letters.
pub const DEAD_LETTER_STREAM: &str = "DEAD_LETTER_STREAM";

/// The stream of what operators did.
pub const ADMIN_STREAM: &str = "ADMIN_STREAM";

/// Major and minor version of the oldest server that keeps the promises this system needs: 2.9 loses a dead letter on interest
/// streams.
pub const MINIMUM_SERVER: (u64, u64) = (2, 10);

/// The most bytes that a message may have, headers included; the largest event has a few hundred.
pub const MESSAGE_MAX: i32 = 256 * 1024;

/// The most bytes of one message on `stream`, headers included; −1 for no bound but the server's.
pub(crate) fn message_max(stream: &str) -> i32 {
    // A dead letter is a message plus headers that say what happened to it, so its stream takes more than the others.
    if stream == DEAD_LETTER_STREAM { -1 } else { MESSAGE_MAX }
}

/// Whether `pattern` matches `subject`, with the wildcards `*` (one token) and `>` (one or more at the end).
pub fn subject_matches(pattern: &str, subject: &str) -> bool {
    let mut pattern = pattern.split('.');
    let mut subject = subject.split('.');
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

impl Stream {
    /// The configuration in NATS's JSON form, with `replicas` copies.
    pub fn to_json(&self, replicas: usize) -> Value {
        json!({
            "name": self.name,
            "subjects": self.subjects,
            "retention": match self.retention {
                Retention::Limits => "limits", Retention::Interest => "interest", Retention::WorkQueue => "workqueue",
            },
            "storage": match self.storage {
                Storage::File => "file", Storage::Memory | Storage::MemoryOrFile => "memory",
            },
            "discard": match self.discard { Discard::New => "new", Discard::Old => "old" },
            "max_age": nanos(self.max_age),
            "max_bytes": self.max_bytes,
            "max_msgs": -1,
            "max_msgs_per_subject": -1,
            "max_msg_size": message_max(&self.name),
            "max_consumers": -1,
            "duplicate_window": nanos(self.duplicate_window),
            "num_replicas": replicas,
            "allow_direct": true,
        })
    }
}

impl Consumer {
    /// The configuration in NATS's JSON form.
    pub fn to_json(&self) -> Value {
        let mut config = json!({
            "durable_name": self.durable,
            "name": self.durable,
            "filter_subject": self.filter,
            "ack_policy": "explicit",
            "ack_wait": nanos(self.ack_wait),
            (DELIVER_POLICY): "all",
            "replay_policy": "instant",
            "max_deliver": self.max_deliver,
            "max_ack_pending": self.max_ack_pending,
        });
        if !self.backoff.is_empty() {
            config["backoff"] = self.backoff.iter().map(|&d| nanos(d)).collect();
        }
        config
    }

    /// The same for a consumer that delivers what was stored at `from` or later.
    pub(crate) fn to_json_from(&self, from: DateTime<Utc>) -> Value {
        let mut config = self.to_json();
        config[DELIVER_POLICY] = json!(BY_START_TIME);
        config["opt_start_time"] = json!(rfc3339::text(&from));
        config
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether a comparison with the server also changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Apply,
    Compare,
}

/// The configuration to send so that `found` becomes as `wanted`; `None` if it already is. Settings that `wanted` does not name
/// stay as they are, and so does what [`is_kept`] says. Pushes a sentence about each difference onto `changes`.
pub(crate) fn difference(what: &str, found: Option<Value>, wanted: &Value, changes: &mut Vec<String>) -> Option<Value> {
    let Some(mut config) = found else {
        changes.push(format!("{what}: missing, created"));
        return Some(wanted.clone());
    };
    let mut differs = false;
    for (key, want) in wanted.as_object().into_iter().flatten() {
        // The server leaves out an empty string.
        let have = match &config[key] {
            Value::Null if want.is_string() => &json!(""),
            have => have,
        };
        if have != want && !is_kept(key, have, want) {
            changes.push(format!("{what}: {key} was {have}, becomes {want}"));
            config[key] = want.clone();
            differs = true;
        }
    }
    differs.then_some(config)
}

/// Whether `have` are the wanted subjects and others of the same nouns. A subject with a wildcard is nobody's.
fn has_newer_subjects(have: &Value, want: &Value) -> bool {
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let noun = |subject: &str| subject.split_once('.').map(|(noun, _)| noun.to_owned());
    let (have, want) = (texts(have), texts(want));
    let nouns: Vec<_> = want.iter().map(|subject| noun(subject)).collect();
    let is_newer = |subject: &String| !subject.contains(['*', '>']) && nouns.contains(&noun(subject));
    want.iter().all(|subject| have.contains(subject)) && have.iter().all(|s| want.contains(s) || is_newer(s))
}

/// Whether a setting stays although it differs: where a consumer that was made again has begun, which no update changes; a limit, a duplicate window or a
/// number of replicas that is above the wanted one, because somebody has raised it and a lower one would delete messages, refuse them or
/// protect them less; storage on disk instead of memory, which only a new stream changes; and subjects
/// that a newer version has added, because two versions run side by side while one takes over.
fn is_kept(key: &str, have: &Value, want: &Value) -> bool {
    if key == "subjects" {
        return has_newer_subjects(have, want);
    }
    match (key, have.as_i64(), want.as_i64()) {
        ("max_bytes" | "max_msg_size" | "max_ack_pending", Some(have), Some(want)) => {
            want > 0 && (have < 0 || have > want)
        }
        ("max_age", Some(have), Some(want)) => want > 0 && (have == 0 || have > want),
        ("num_replicas" | "duplicate_window", Some(have), Some(want)) => have > want,
        ("storage", _, _) => have == "file",
        (DELIVER_POLICY, _, _) => have == BY_START_TIME,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_on_the_server_stays_and_what_is_smaller_does_not() {
        for (key, want, unlimited) in [
            ("max_bytes", 100, Some(-1)),
            ("max_age", 100, Some(0)),
            ("max_msg_size", 100, Some(-1)),
            ("max_ack_pending", 100, Some(-1)),
            ("num_replicas", 1, None),
            ("duplicate_window", 100, None),
        ] {
            let stays = |have: i64, want: i64| is_kept(key, &json!(have), &json!(want));
            assert!(stays(want + 2, want), "{key}");
            assert!(!stays(want - 1, want) || unlimited == Some(want - 1), "{key}");
            if let Some(unlimited) = unlimited {
                assert!(stays(unlimited, want) && !stays(want, unlimited), "{key}");
            }
        }
        assert!(!is_kept("ack_wait", &json!(2), &json!(1)) && !is_kept("max_deliver", &json!(9), &json!(5)));
    }

    #[test]
    fn subjects_of_a_newer_version_stay_and_strange_ones_do_not() {
        let want = json!(["ride.pickup", "ride.started"]);
        for (have, stays) in [
            (json!(["ride.pickup", "ride.waiting", "ride.started"]), true),
            (json!(["ride.started", "ride.pickup"]), true),
            (json!(["ride.pickup", "ride.waiting"]), false),
            (json!(["ride.pickup", "ride.started", "ride.*"]), false),
            (json!(["ride.pickup", "ride.started", "user.beacon"]), false),
        ] {
            assert_eq!(is_kept("subjects", &have, &want), stays, "{have}");
        }
    }
}
