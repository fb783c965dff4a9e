use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::event::{Service, Subject};

const HOUR: Duration = Duration::from_secs(3600);

/// The path and the text of every JSON file.
fn files() -> BTreeMap<PathBuf, String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let topology = Topology::rideshare();
    let streams = topology.streams.iter().map(|s| (root.join(format!("{}.json", s.name)), s.to_json(1)));
    let consumers =
        topology.consumers.iter().map(|c| (root.join("consumers").join(format!("{}.json", c.durable)), c.to_json()));
    streams.chain(consumers).map(|(path, json)| (path, format!("{json:#}\n"))).collect()
}

/// `UPDATE_TOPOLOGY=1 cargo test -p streams topology` writes the files.
#[test]
fn json_files_equal_the_table() {
    let wanted = files();
    let update = std::env::var_os("UPDATE_TOPOLOGY").is_some();
    let directories =
        [PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("consumers")];
    for directory in directories {
        std::fs::create_dir_all(&directory).unwrap();
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "json") && !wanted.contains_key(&path) {
                assert!(update, "{} is not in the table: set UPDATE_TOPOLOGY=1 to remove it", path.display());
                std::fs::remove_file(&path).unwrap();
            }
        }
    }
    for (path, text) in wanted {
        if update {
            std::fs::write(&path, &text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(found, text, "{} differs from the table: set UPDATE_TOPOLOGY=1 to write it", path.display());
    }
}

#[test]
fn table_equals_the_contract() {
    let topology = Topology::rideshare();
    let mut names: Vec<&str> = topology.consumers.iter().map(|c| c.durable.as_str()).collect();
    names.sort_unstable();
    // The contract's list, plus `user_beacon_location`: only a beacon says that a driver went offline.
    let mut contract = vec![
        "user_beacon_users",
        "user_beacon_match",
        "user_beacon_location",
        "user_finder_users",
        "user_finder_match",
        "match_found_users",
        "match_rejected_users",
        "match_rejected_match",
        "match_accepted_users",
        "match_accepted_rides",
        "match_accepted_match",
        "ride_pickup_users",
        "ride_waiting_users",
        "ride_started_users",
        "ride_arrived_users",
        "ride_completed_users",
        "ride_cancelled_users",
        "ride_pickup_match",
        "ride_completed_match",
        "ride_cancelled_match",
        "ride_started_location",
        "ride_arrived_location",
        "ride_completed_location",
        "ride_cancelled_location",
        "location_update_location",
        "location_update_match",
        "location_aggregate_rides",
        "location_aggregate_users",
        "payment_capture_rides",
    ];
    contract.sort_unstable();
    assert_eq!(names, contract);
    let day = 24 * HOUR;
    for (name, subjects, retention, storage, discard, max_age) in [
        ("USER_STREAM", "user.beacon user.finder", Retention::Interest, Storage::File, Discard::New, day),
        (
            "MATCH_STREAM",
            "match.found match.rejected match.accepted",
            Retention::Interest,
            Storage::File,
            Discard::New,
            HOUR,
        ),
        (
            "RIDE_STREAM",
            "ride.pickup ride.waiting ride.started ride.arrived ride.completed ride.cancelled",
            Retention::Limits,
            Storage::File,
            Discard::New,
            7 * day,
        ),
        (
            "LOCATION_STREAM",
            "location.update location.aggregate",
            Retention::Interest,
            Storage::MemoryOrFile,
            Discard::Old,
            2 * HOUR,
        ),
        ("PAYMENT_STREAM", "payment.capture", Retention::WorkQueue, Storage::File, Discard::New, day),
        ("DEAD_LETTER_STREAM", "dead_letter.>", Retention::Limits, Storage::File, Discard::New, 30 * day),
        ("ADMIN_STREAM", "admin.>", Retention::Limits, Storage::File, Discard::New, 365 * day),
    ] {
        let found = topology.streams.iter().find(|s| s.name == name).unwrap();
        assert_eq!(found.subjects.join(" "), subjects);
        assert_eq!((found.retention, found.storage, found.discard), (retention, storage, discard), "{name}");
        assert_eq!((found.max_age, found.duplicate_window), (max_age, Duration::from_secs(300)), "{name}");
        assert!(found.max_bytes > 0, "{name}");
    }
    assert_eq!(topology.streams.len(), 7);
}

#[test]
fn every_subject_has_one_row() {
    for subject in Subject::ALL {
        assert_eq!(TABLE.iter().filter(|row| row.subject == *subject).count(), 1, "{subject}");
    }
    for service in Service::ALL {
        for row in TABLE.iter().filter(|row| row.readers.contains(&service)) {
            let consumer = Topology::rideshare().consumer(row.subject, service).clone();
            assert_eq!((consumer.filter.as_str(), consumer.stream.as_str()), (row.subject.as_str(), row.stream));
        }
    }
    let all: usize = Service::ALL.iter().map(|s| Topology::rideshare().consumers_of(*s).count()).sum();
    assert_eq!(all, Topology::rideshare().consumers.len());
}

#[test]
fn rideshare_topology_is_sound() {
    assert_eq!(prove(&Topology::rideshare()), Ok(()));
}

#[test]
fn sweeper_is_added_to_the_topology_of_the_table() {
    let (table, whole) = (Topology::rideshare(), Topology::rideshare().with_sweeper());
    assert_eq!((&whole.streams[1..], &whole.consumers[1..]), (&table.streams[..], &table.consumers[..]));
    let (stream, consumer) = (&whole.streams[0], &whole.consumers[0]);
    assert!(stream.max_bytes > 0 && stream.duplicate_window <= stream.max_age);
    // Nobody fails a dead letter, or an act of an operator.
    let is_read = |s: &&Stream| s.name != DEAD_LETTER_STREAM && s.name != ADMIN_STREAM;
    assert!(table.streams.iter().filter(is_read).all(|s| s.max_age <= stream.max_age));
    assert_eq!(
        (&consumer.stream, consumer.max_deliver),
        (&stream.name, -1),
        "no other consumer handles what it gives up"
    );
    for reader in &table.consumers {
        let advisory = format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{}.{}", reader.stream, reader.durable);
        assert!(
            subject_matches(&stream.subjects[0], &advisory) && subject_matches(&consumer.filter, &advisory),
            "{advisory}"
        );
    }
}

/// Breaks the topology in one way, and expects this fault.
fn fault(what: &str, break_it: impl FnOnce(&mut Topology), expected: &str) {
    let mut topology = Topology::rideshare();
    break_it(&mut topology);
    let faults = prove(&topology).expect_err(what);
    assert!(faults.iter().any(|f| f == expected), "{what}: expected `{expected}` among {faults:#?}");
}

fn stream_of<'t>(topology: &'t mut Topology, name: &str) -> &'t mut Stream {
    topology.streams.iter_mut().find(|s| s.name == name).unwrap()
}

fn consumer_of<'t>(topology: &'t mut Topology, name: &str) -> &'t mut Consumer {
    topology.consumers.iter_mut().find(|c| c.durable == name).unwrap()
}

#[test]
fn each_fault_is_reported() {
    fault(
        "a subject without a consumer",
        |t| t.consumers.retain(|c| c.durable != "match_found_users"),
        "match.found on MATCH_STREAM has no consumer: what is published there would be lost",
    );
    fault(
        "a work queue without a consumer",
        |t| t.consumers.retain(|c| c.durable != "payment_capture_rides"),
        "payment.capture on PAYMENT_STREAM needs exactly one consumer and has 0",
    );
    fault(
        "a work queue with two consumers",
        |t| {
            let mut second = consumer_of(t, "payment_capture_rides").clone();
            second.durable = "payment_capture_users".to_owned();
            t.consumers.push(second);
        },
        "payment.capture on PAYMENT_STREAM needs exactly one consumer and has 2",
    );
    fault("a name twice", |t| t.consumers.push(t.consumers[0].clone()), "consumer user_beacon_users is listed twice");
    fault(
        "a name against the rule",
        |t| consumer_of(t, "match_found_users").durable = "found".to_owned(),
        "consumer found: the name must be <subject with _>_<service> for the subject match.found",
    );
    fault(
        "a consumer of a missing stream",
        |t| consumer_of(t, "match_found_users").stream = "NO_STREAM".to_owned(),
        "consumer match_found_users reads NO_STREAM, which is no stream",
    );
    fault(
        "a filter outside its stream",
        |t| consumer_of(t, "match_found_users").stream = "USER_STREAM".to_owned(),
        "consumer match_found_users: USER_STREAM does not carry match.found",
    );
    let bounds = "consumer match_found_users: ack wait and max ack pending must be set, and max deliver above 3";
    fault("no ack wait", |t| consumer_of(t, "match_found_users").ack_wait = Duration::ZERO, bounds);
    fault("no bound of pending messages", |t| consumer_of(t, "match_found_users").max_ack_pending = -1, bounds);
    fault("no delivery left after the tries", |t| consumer_of(t, "match_found_users").max_deliver = 3, bounds);
    fault(
        "a window longer than the age",
        |t| stream_of(t, "MATCH_STREAM").duplicate_window = 2 * HOUR,
        "stream MATCH_STREAM: the duplicate window is longer than the maximum age",
    );
    fault(
        "no bound of bytes",
        |t| stream_of(t, "RIDE_STREAM").max_bytes = -1,
        "stream RIDE_STREAM: bytes are not bounded",
    );
}

#[test]
fn wildcards_match_subjects() {
    for (pattern, subject, matches) in [
        ("a.b", "a.b", true),
        ("a.b", "a.c", false),
        ("a.b", "a", false),
        ("a", "a.b", false),
        ("a.*", "a.b", true),
        ("a.*", "a", false),
        ("a.*", "a.b.c", false),
        ("*.b", "a.b", true),
        ("a.>", "a.b.c", true),
        ("a.>", "a", false),
        (">", "a", true),
        ("*", "a.b", false),
        ("a.*.c", "a.b.c", true),
        ("a.*.c", "a.b.d", false),
        ("a.*", "a.*", true),
        ("a.>", "a.*", true),
    ] {
        assert_eq!(subject_matches(pattern, subject), matches, "{pattern} {subject}");
    }
}
