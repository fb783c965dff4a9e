//! Every kill point, by the death of a real process: the platform as processes on servers of its own, each service that has the
//! point armed with it, a small city that takes rides meanwhile, and the checks afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use platform::kill_point::POINTS;
use simulator::{Config, Faults};
use streams::{Headers, Message};
use tokio::time::sleep;

use crate::checks;
use crate::fleet::{Fleet, at_rest};
use crate::processes::{Addresses, Directory, Process};
use crate::receivers::Receivers;
use crate::records::Records;
use crate::script;
use testing::database;
use testing::nats::Server;

struct Case {
    point: &'static str,
    /// Each service that dies, and at which time of reaching the point.
    at: &'static [(&'static str, u32)],
    /// What else leads to the point.
    also: Also,
}

const CASE: Case = Case { point: "", at: &[], also: Also::Nothing };

#[derive(PartialEq)]
enum Also {
    Nothing,
    /// Messages that cannot be parsed are published.
    BrokenMessages,
    /// The armed processes get SIGTERM once the city lives.
    Sigterm,
    /// The nats-server's store is deleted once the city lives.
    Wipe,
    /// An operator removes a dead letter.
    Operator,
    /// A passenger without a socket takes a ride: pushes, a call for help, the end of another sign-in.
    Script,
}

macro_rules! cases {
    ($($name:ident: $case:expr;)+) => {
        const CASES: &[Case] = &[$($case),+];
        $(#[tokio::test] async fn $name() { run(&$case).await })+
    };
}

cases! {
    before_the_handler: Case {
        point: "consumer.before_handler",
        at: &[("users", 5), ("match", 3), ("rides", 2), ("location", 2)],
        ..CASE
    };
    before_the_commit: Case {
        point: "consumer.before_commit",
        at: &[("users", 6), ("match", 4), ("rides", 1), ("location", 3)],
        ..CASE
    };
    after_the_commit_before_the_ack: Case {
        point: "consumer.before_ack",
        at: &[("users", 7), ("match", 5), ("rides", 3), ("location", 4)],
        ..CASE
    };
    before_the_dead_letter: Case {
        point: "consumer.before_letter",
        at: &[("users", 2), ("match", 1), ("rides", 3)],
        also: Also::BrokenMessages,
    };
    between_dead_letter_and_term: Case {
        point: "consumer.before_term",
        at: &[("users", 1), ("match", 2), ("rides", 1)],
        also: Also::BrokenMessages,
    };
    after_the_commit_before_the_publish: Case {
        point: "relay.before_publish",
        at: &[("users", 4), ("match", 2), ("rides", 2), ("location", 1)],
        ..CASE
    };
    after_the_publish_before_the_mark: Case {
        point: "relay.before_mark",
        at: &[("users", 5), ("match", 1), ("rides", 3), ("location", 1)],
        ..CASE
    };
    before_a_recreated_stream_is_published_again: Case {
        point: "recovery.before_publish",
        at: &[("users", 1), ("match", 1), ("rides", 1)],
        also: Also::Wipe,
    };
    before_the_recovery_is_recorded: Case {
        point: "recovery.before_advance",
        at: &[("users", 1), ("match", 1), ("rides", 1)],
        also: Also::Wipe,
    };
    after_the_write_to_a_socket: Case { point: "session.after_write", at: &[("users", 20)], ..CASE };
    before_the_cursor_of_a_mailbox: Case { point: "mailbox.before_cursor", at: &[("users", 1)], ..CASE };
    before_the_ack_of_a_command: Case { point: "command.before_ack", at: &[("users", 6)], ..CASE };
    before_the_ack_of_positions: Case { point: "positions.before_ack", at: &[("users", 5)], ..CASE };
    before_the_reply_of_rides: Case { point: "ride_command.before_reply", at: &[("rides", 2)], ..CASE };
    after_the_lease_is_taken: Case { point: "match.after_take", at: &[("match", 1)], ..CASE };
    after_the_engine_is_loaded: Case { point: "match.after_load", at: &[("match", 1)], ..CASE };
    before_the_lease_is_released: Case {
        point: "match.before_give_back",
        at: &[("match", 1)],
        also: Also::Sigterm,
    };
    before_a_push_is_sent: Case { point: "push.before_send", at: &[("users", 1)], also: Also::Script };
    before_the_outcome_of_a_push_is_recorded: Case {
        point: "push.before_record",
        at: &[("users", 1)],
        also: Also::Script,
    };
    before_a_call_for_help_is_sent: Case { point: "sos.before_send", at: &[("rides", 1)], also: Also::Script };
    before_the_answer_to_a_call_for_help_is_recorded: Case {
        point: "sos.before_record",
        at: &[("rides", 1)],
        also: Also::Script,
    };
    before_the_end_of_a_sign_in_is_announced: Case {
        point: "sign_in.before_announce",
        at: &[("users", 1)],
        also: Also::Script,
    };
    between_an_act_and_its_effect: Case { point: "operator.after_record", at: &[("users", 1)], also: Also::Operator };
}

#[test]
fn every_kill_point_has_a_case() {
    let hit: BTreeSet<&str> = CASES.iter().map(|case| case.point).collect();
    assert_eq!(hit, POINTS.iter().copied().collect());
}

async fn run(case: &Case) {
    let mut nats = Server::new().unwrap();
    let database = database::fresh().await;
    let logs = Directory::new();
    let servers = Addresses::new(&nats.url, &database);
    let mut fleet = Fleet::new(&servers, &logs);
    let receivers = Receivers::new().await;
    let mut armed = BTreeSet::new();
    fleet.set(&receivers.settings());
    let operators = logs.0.join("operators");
    std::fs::write(&operators, script::operator_line()).unwrap();
    fleet.set(&BTreeMap::from([("ADMIN_TOKENS_FILE", operators.to_str().unwrap().to_owned())]));
    for process in &mut fleet.processes {
        let nth = case.at.iter().find(|(service, _)| *service == process.service);
        process.start(nth.map(|(_, nth)| format!("{}:{nth}", case.point)).as_deref());
        armed.extend(nth.map(|(service, _)| *service));
    }
    for process in &mut fleet.processes {
        while process.died().is_none() && process.ready().await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
        if process.child.is_none() {
            expect_death(process, case.point, &mut armed);
        }
        process.wait_ready().await;
    }
    let bus = servers.bus().await;
    if case.also == Also::BrokenMessages {
        for body in ["{\"match_id\": ", "{\"match_id\": 7}", "[]"] {
            let (subject, payload) = ("match.accepted".to_owned(), Bytes::from_static(body.as_bytes()));
            bus.publish(Message { subject, headers: Headers::default(), payload }).await.unwrap();
        }
    }
    let (day, observations) = fleet.day(2, 6, 3);
    // The tablets acknowledge every event. Apps are installed again, half of them after a sign-out.
    let faults = Faults { tablet: 1.0, reinstall: 0.01, ..Faults::none() };
    let day = Config { faults, outage: Duration::from_secs(60), ..day };
    let addresses = script::Platform::of(&fleet);
    let mut city = Box::pin(async {
        let scripted = async {
            match case.also {
                Also::Script => script::ride(&addresses, &receivers, 1).await,
                Also::Operator => script::remove_a_letter(&addresses, &bus).await,
                _ => {}
            }
        };
        tokio::join!(simulator::run(day), scripted).0
    });
    let mut wipes = case.also == Also::Wipe;
    let summary = loop {
        tokio::select! {
            biased;
            summary = &mut city => break summary.unwrap(),
            () = sleep(Duration::from_millis(100)) => {}
        }
        if wipes && bus.stream_info("RIDE_STREAM").await.is_ok_and(|info| info.messages >= 3) {
            wipes = false;
            nats.kill();
            std::fs::remove_dir_all(nats.directory.join("jetstream")).unwrap();
            nats.start().unwrap();
        }
        for process in &mut fleet.processes {
            if case.also == Also::Sigterm && armed.contains(process.service) {
                process.signal("TERM");
            }
            restart_if_killed(process, case.point, &mut armed);
        }
    };
    assert!(armed.is_empty(), "{}: never reached by {armed:?}", case.point);
    assert!(summary.completed >= 6 && summary.passed(), "{}: {summary}", case.point);
    at_rest(&database, &bus).await;
    let observations: Vec<_> = observations.try_iter().collect();
    let records = Records::read(&database, &bus).await;
    let wrong = checks::all(&records, &observations);
    assert!(wrong.is_empty(), "{}: {wrong:#?}", case.point);
    assert_eq!(receivers.refused(), Vec::<String>::new(), "{}", case.point);
    assert_eq!(
        records.dead.len(),
        if case.also == Also::BrokenMessages { 9 } else { 0 },
        "{}: dead letters",
        case.point
    );
    fleet.stop().await;
}

/// Starts a process again that has died at its kill point; any other death fails the test.
fn restart_if_killed(process: &mut Process, point: &str, armed: &mut BTreeSet<&'static str>) {
    let Some(how) = process.died() else { return };
    assert_eq!(how, "signal 6", "{}: {}", process.name, process.tail(40));
    expect_death(process, point, armed);
}

fn expect_death(process: &mut Process, point: &str, armed: &mut BTreeSet<&'static str>) {
    assert!(armed.remove(process.service), "{} died: {}", process.name, process.tail(40));
    assert!(process.text().contains(&format!("kill point {point}")), "{}: {}", process.name, process.tail(40));
    process.start(None);
}
