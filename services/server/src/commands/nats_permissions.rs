//! `rideshare streams permissions`: the users of a nats-server and what each may do, from the table of the topology and the core subjects
//! below. `docker/nats-users.conf` is its output. Pure.

use std::fmt::Write;

use streams::Service;
use streams::contacts::CONTACTS;
use streams::debts::DEBTS;
use streams::driven_distance::DRIVEN_DISTANCE;
use streams::fleet::{FLEET, FLEET_QUEUE_GROUP};
use streams::match_zones::{ZONE_INPUTS, ZONE_POSITIONS};
use streams::missed_offers::MISSED_OFFERS;
use streams::newest_position::NEWEST_POSITION;
use streams::operators::{LOCATION_OPERATORS, RIDES_OPERATORS, USERS_OPERATORS};
use streams::parties::PARTIES;
use streams::person::PERSON;
use streams::pods::{HEARTBEAT, TOPOLOGY};
use streams::position_progress::POSITION_PROGRESS;
use streams::ratings::RATINGS;
use streams::ride_command::RIDE_COMMANDS;
use streams::sign_ins::{SIGN_INS_ENDED, SIGN_INS_LIST};
use streams::topology::{TABLE, Topology, is_fast};

/// A core subject that services use among themselves: who publishes it, and who subscribes.
struct CoreSubject {
    pattern: &'static str,
    /// With a queue group, only members of it may subscribe.
    queue_group: Option<&'static str>,
    publishers: &'static [Service],
    subscribers: &'static [Service],
}

/// Every core subject but those of health, the service API, dead letters and inboxes, which all services have.
const CORE_SUBJECTS: &[CoreSubject] = {
    use Service::{Location, Match, Rides, Users};
    const fn subject(
        pattern: &'static str,
        queue_group: Option<&'static str>,
        publishers: &'static [Service],
        subscribers: &'static [Service],
    ) -> CoreSubject {
        CoreSubject { pattern, queue_group, publishers, subscribers }
    }
    &[
        subject(RIDE_COMMANDS, None, &[Users], &[Rides]),
        subject(DEBTS, None, &[Users], &[Rides]),
        subject(MISSED_OFFERS, Some(MISSED_OFFERS), &[Users], &[Match]),
        subject(RATINGS, None, &[Users], &[Rides]),
        subject(PERSON, None, &[Users], &[Rides]),
        subject(PARTIES, None, &[Rides], &[Users]),
        subject(CONTACTS, None, &[Rides], &[Users]),
        // Sealed: only a process that has the secrets asks as an operator does.
        subject(USERS_OPERATORS, None, &[Users, Match, Rides, Location], &[Users]),
        subject(RIDES_OPERATORS, None, &[Users, Match, Rides, Location], &[Rides]),
        subject(LOCATION_OPERATORS, None, &[Users, Match, Rides, Location], &[Location]),
        subject("users.pod.*", None, &[Users], &[Users]),
        subject("users.broadcast", None, &[Users], &[Users]),
        // Of processes of the version before.
        subject("users.session.*.notify", None, &[Users], &[Users]),
        subject(SIGN_INS_ENDED, None, &[Users], &[Users, Match, Rides, Location]),
        subject(SIGN_INS_LIST, None, &[Match, Rides, Location], &[Users]),
        subject("location.live.*", None, &[Users], &[Users]),
        subject(NEWEST_POSITION, Some(FLEET_QUEUE_GROUP), &[Users, Rides], &[Location]),
        subject(DRIVEN_DISTANCE, Some(FLEET_QUEUE_GROUP), &[Rides], &[Location]),
        subject(POSITION_PROGRESS, None, &[Match, Location], &[Users]),
        subject("location.service.heard", None, &[Location], &[Location]),
        // Positions for the owner of their zone, and questions to it.
        subject("location.pod.*", None, &[Location], &[Location]),
        subject("location.pod.*.drivers", None, &[Location], &[Location]),
        subject(FLEET, None, &[Match], &[Location]),
        subject(ZONE_INPUTS, None, &[Match], &[Match]),
        subject(ZONE_POSITIONS, None, &[Match], &[Match]),
        subject(HEARTBEAT, None, &[Users, Match, Rides, Location], &[Users, Match, Rides, Location]),
        subject("pods.*.health", None, &[Users, Match, Rides, Location], &[]),
        subject(TOPOLOGY, None, &[Users, Match, Rides, Location], &[Users, Match, Rides, Location]),
    ]
};

/// What tells how streams and consumers stand, and changes nothing.
const JETSTREAM_INFO: [&str; 4] =
    ["$JS.API.INFO", "$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.LIST.*"];

const DELETE_LETTERS: &str = "$JS.API.STREAM.MSG.DELETE.DEAD_LETTER_STREAM";

/// Subjects, in groups with a comment each.
type Groups = Vec<(&'static str, Vec<String>)>;

/// The users as a part of a nats-server's configuration. Fast-lane subscriptions are of the queue group `core_queue_group`.
pub fn configuration(topology: &Topology, core_queue_group: &str) -> String {
    let mut text = HEADER.to_owned();
    text.push_str("authorization {\n  users: [\n    { user: \"admin\", password: $NATS_ADMIN_PASSWORD }\n");
    for service in Service::ALL {
        let (publish, subscribe) = of_service(topology, service, core_queue_group);
        write_user(&mut text, service.name(), &publish, &subscribe, true);
    }
    let (publish, subscribe) = of_operator();
    write_user(&mut text, "operator", &publish, &subscribe, false);
    let (publish, subscribe) = of_observer();
    write_user(&mut text, "observer", &publish, &subscribe, false);
    text.push_str("  ]\n}\n");
    text
}

fn of_service(topology: &Topology, service: Service, core_queue_group: &str) -> (Groups, Groups) {
    let written = TABLE.iter().filter(|row| row.writers.contains(&service)).map(|row| row.subject.as_str().to_owned());
    let sends = CORE_SUBJECTS.iter().filter(|subject| subject.publishers.contains(&service));
    let mut publish = vec![
        ("Its events.", written.collect()),
        ("Core subjects.", sends.map(|subject| subject.pattern.to_owned()).collect()),
        ("The echo of its own subscriptions.", vec![inbox(service.name())]),
    ];
    let pulls = topology.consumers_of(service).flat_map(|consumer| {
        let (stream, durable) = (&consumer.stream, &consumer.durable);
        [format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"), format!("$JS.ACK.{stream}.{durable}.>")]
    });
    publish.push(("Its own consumers.", pulls.collect()));
    publish.push(("How streams and consumers stand, and single messages: the sweeper reads what it dead-letters.", {
        JETSTREAM_INFO.iter().chain(&["$JS.API.STREAM.MSG.GET.*"]).map(|subject| (*subject).to_owned()).collect()
    }));
    let sweeper = [
        "$JS.API.CONSUMER.MSG.NEXT.GIVEN_UP_STREAM.sweeper",
        "$JS.ACK.GIVEN_UP_STREAM.sweeper.>",
        "dead_letter.*",
        "dead_letters.*",
        "$JS.API.CONSUMER.CREATE.DEAD_LETTER_STREAM.*.dead_letter.*",
        "$JS.API.CONSUMER.MSG.NEXT.DEAD_LETTER_STREAM.*",
    ];
    if service == Service::Users {
        // Of any consumer, for operators.
        publish.push(("Removes dead letters, for operators.", vec![DELETE_LETTERS.to_owned()]));
    }
    publish.push((
        "The sweeper: advisories, dead letters of any consumer, and the request to the service that must release the message.",
        sweeper.map(str::to_owned).to_vec(),
    ));

    let receives = CORE_SUBJECTS.iter().filter(|subject| subject.subscribers.contains(&service));
    let receives = receives.map(|subject| match subject.queue_group {
        Some(group) => format!("{} {group}", subject.pattern),
        None => subject.pattern.to_owned(),
    });
    let api = ["pods.*.health", "$SRV.PING", "$SRV.INFO", "$SRV.STATS"].map(str::to_owned);
    let own_api = [format!("$SRV.*.{service}"), format!("$SRV.*.{service}.*")];
    let fast = topology.consumers_of(service).filter(|consumer| is_fast(&consumer.filter, service));
    let letters = topology.consumers_of(service).map(|consumer| format!("dead_letters.{0} {0}", consumer.durable));
    let subscribe = vec![
        ("Core subjects.", receives.collect()),
        ("Answers to its requests.", vec![inbox(service.name())]),
        ("Health and the service API.", api.into_iter().chain(own_api).collect()),
        (
            "The fast lane; the queue group is CORE_NATS_QUEUE_GROUP, a dot, and the service.",
            fast.map(|consumer| format!("{} {core_queue_group}.{service}", consumer.filter)).collect(),
        ),
        ("Requests of the sweeper.", letters.collect()),
    ];
    (publish, subscribe)
}

/// Reads what `audit`, `streams show` and `dead-letters` read, and requeues and removes dead letters. It changes no stream and no
/// consumer of a service, and publishes no event.
fn of_operator() -> (Groups, Groups) {
    let reads = ["RIDE_STREAM", "DEAD_LETTER_STREAM", "ADMIN_STREAM"].into_iter().flat_map(|stream| {
        [
            // Ordered consumers, which the server forgets.
            format!("$JS.API.CONSUMER.CREATE.{stream}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
            format!("$JS.API.CONSUMER.DELETE.{stream}.*"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.*"),
            format!("$JS.ACK.{stream}.>"),
            format!("$JS.API.STREAM.MSG.GET.{stream}"),
            format!("$JS.FC.{stream}.>"),
        ]
    });
    let letters = [DELETE_LETTERS, "dead_letters.*"].map(str::to_owned);
    let mut info: Vec<String> = JETSTREAM_INFO.map(str::to_owned).to_vec();
    info.extend(["$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.CONSUMER.NAMES.*"].map(str::to_owned));
    info.extend(["$SRV.PING", "$SRV.INFO", "$SRV.STATS", "$SRV.*.*", "$SRV.*.*.*"].map(str::to_owned));
    let publish = vec![
        ("The audit trail, dead letters, and the acts of operators.", reads.collect()),
        ("Requeues and removes dead letters.", letters.to_vec()),
        ("How streams, consumers and services stand.", info),
    ];
    (publish, vec![("Answers to its requests, and heartbeats.", vec![inbox("operator"), HEARTBEAT.to_owned()])])
}

/// Sees that everything is there, and nothing of a person: no event, no position.
fn of_observer() -> (Groups, Groups) {
    let mut asks: Vec<String> = JETSTREAM_INFO.map(str::to_owned).to_vec();
    asks.extend(["$JS.API.STREAM.NAMES", "$JS.API.CONSUMER.NAMES.*"].map(str::to_owned));
    asks.extend(["$SRV.PING", "$SRV.INFO", "$SRV.STATS", "pods.*.health"].map(str::to_owned));
    let publish = vec![("How streams, consumers, services and processes stand.", asks)];
    (publish, vec![("Answers to its requests, and heartbeats.", vec![inbox("observer"), HEARTBEAT.to_owned()])])
}

fn inbox(user: &str) -> String {
    format!("_INBOX_{user}.>")
}

fn write_user(text: &mut String, user: &str, publish: &Groups, subscribe: &Groups, answers: bool) {
    let password = format!("$NATS_{}_PASSWORD", user.to_uppercase());
    // Writing to a String cannot fail.
    let _ = write!(text, "    {{\n      user: \"{user}\", password: {password}\n      permissions: {{\n");
    for (verb, groups) in [("publish", publish), ("subscribe", subscribe)] {
        let _ = writeln!(text, "        {verb}: {{ allow: [");
        for (comment, subjects) in groups.iter().filter(|(_, subjects)| !subjects.is_empty()) {
            let _ = writeln!(text, "          # {comment}");
            for subject in subjects {
                let _ = writeln!(text, "          \"{subject}\",");
            }
        }
        text.push_str("        ] }\n");
    }
    if answers {
        text.push_str("        # Answers to requests.\n        allow_responses: { max: 1, expires: \"1m\" }\n");
    }
    text.push_str("      }\n    }\n");
}

const HEADER: &str = r#"# Written by `rideshare streams permissions`; services/server/tests/it/nats_permissions.rs holds it equal, runs whole rides under these
# permissions, and tries for each user what it may not do. Included by nats-compose.conf.
#
# A user for each service, who may do what that service does and nothing more. `admin` may do all: for `rideshare streams apply`, and for
# people. `operator` is for `audit replay`, `streams show` and `dead-letters`. `observer` sees that streams, consumers and processes are
# there, and no event.
#
# Each service has an inbox prefix of its own (NATS_INBOX_PREFIX=_INBOX_users and so on), so that none can read what is delivered to
# another, and acknowledges for its own consumers only. No service may create or change streams and consumers: `rideshare streams
# apply` does so before they start, and again after a stream was lost.
#
# The passwords are environment variables of the server. Give each in double quotes that are part of the value: the server reads
# the value as a piece of this file, and would take 12e4 for a number.

"#;
