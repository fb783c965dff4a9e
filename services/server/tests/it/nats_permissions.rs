//! `docker/nats-users.conf`: it is what the program writes; whole rides run with a NATS user for each service, while somebody watches all
//! subjects; and what a thief of one password can do is what its service, or an operator, does.

use std::path::Path;

use platform::World;
use streams::Service;
use streams::topology::{TABLE, Topology, is_fast};
use testing::nats::Server;
use testing::shipped::{self, password};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::harness::client::Person;
use crate::harness::ride::{drive, online, trip};
use crate::harness::running::{Running, Shape};
use crate::harness::until;

fn configuration() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker/nats-users.conf");
    std::fs::read_to_string(file).unwrap()
}

/// Without TLS, so that a test can speak its protocol line by line.
fn server() -> Server {
    Server::configured(&shipped::users(password).unwrap()).unwrap()
}

/// Whether the server lets `user` send this line, which is a SUB or a PUB.
async fn may(server: &Server, user: &str, line: &str) -> bool {
    let mut stream = TcpStream::connect(server.url.rsplit('/').next().unwrap()).await.unwrap();
    let connect = format!("CONNECT {{\"verbose\":false,\"user\":\"{user}\",\"pass\":\"{}\"}}\r\n", password(user));
    stream.write_all(format!("{connect}{line}\r\nPING\r\n").as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut may = true;
    while let Some(line) = lines.next_line().await.unwrap() {
        if line == "PONG" {
            return may;
        }
        assert!(!line.contains("Authorization"), "{user}: {line}");
        may &= !line.starts_with("-ERR 'Permissions Violation");
    }
    panic!("{user}: the server closed the connection after {line}");
}

fn publish(subject: &str) -> String {
    format!("PUB {subject} 2\r\n{{}}")
}

#[tokio::test]
async fn operators_work_beside_a_ride_with_a_user_for_each_service() {
    let running = Running::start(Shape::Secured, &[]).await;
    let addr = running.addr();
    let mut driver = Person::driver(addr, 1).await.connect(None).await;
    let mut passenger = Person::passenger(addr, 2).await.connect(None).await;
    online(&mut driver, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    let found = driver.event("match.found").await["data"]["match_id"].clone();
    drive(&mut driver, &mut passenger, &found, &World::real()).await;
    passenger.event("ride.completed").await;
    // A message that fails in three services is three letters.
    let broken = streams::Message {
        subject: "match.accepted".to_owned(),
        headers: streams::Headers::default(),
        payload: bytes::Bytes::from_static(b"{"),
    };
    let bus = running.bus();
    bus.publish(broken).await.unwrap();
    until("three letters", async || bus.stream_info("DEAD_LETTER_STREAM").await.unwrap().messages == 3).await;
    until("nothing waits", async || bus.stream_info("MATCH_STREAM").await.unwrap().messages == 0).await;
    let run = async |command: &[&str]| {
        let output = running.nats().rideshare_meanwhile(command).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["streams", "show"]).await.contains("DEAD_LETTER_STREAM"));
    let trail = run(&["audit", "replay", "--format", "json"]).await;
    assert_eq!(trail.lines().count(), 4, "pickup, started, arrived, completed");
    let letters = run(&["dead-letters", "list"]).await;
    assert!(letters.contains("match_accepted_rides"), "{letters}");
    run(&["dead-letters", "show", "1"]).await;
    run(&["dead-letters", "remove", "1"]).await;
    assert_eq!(bus.stream_info("DEAD_LETTER_STREAM").await.unwrap().messages, 2);
    running.stop().await;
}

#[test]
fn the_file_is_what_the_program_writes() {
    let written = server::commands::nats_permissions::configuration(&Topology::rideshare(), "rideshare");
    assert_eq!(configuration(), written, "rideshare streams permissions > docker/nats-users.conf");
}

#[tokio::test]
async fn operators_and_observers_change_nothing_of_the_services() {
    let server = server();
    for user in ["operator", "observer"] {
        for subject in TABLE.iter().map(|row| row.subject.as_str()).chain([
            "rides.command",
            "users.broadcast",
            "users.sign_ins.ended",
            "location.live.x",
            "pods.topology",
            "dead_letter.match_accepted_rides",
            "$JS.API.STREAM.PURGE.RIDE_STREAM",
            "$JS.API.STREAM.DELETE.RIDE_STREAM",
            "$JS.API.STREAM.UPDATE.RIDE_STREAM",
            "$JS.API.STREAM.CREATE.X",
            "$JS.API.STREAM.MSG.DELETE.RIDE_STREAM",
            "$JS.API.STREAM.MSG.DELETE.ADMIN_STREAM",
            "users.operators",
            "$JS.API.CONSUMER.DELETE.MATCH_STREAM.match_accepted_rides",
            "$JS.API.CONSUMER.CREATE.MATCH_STREAM.spy",
            "$JS.API.CONSUMER.MSG.NEXT.MATCH_STREAM.match_accepted_rides",
            "$JS.ACK.MATCH_STREAM.match_accepted_rides.1.1.1.1.0",
        ]) {
            assert!(!may(&server, user, &publish(subject)).await, "{user} publishes {subject}");
        }
        for subject in
            [">", "ride.>", "location.>", "user.>", "match.found", "_INBOX.>", "_INBOX_users.>", "rides.command"]
        {
            assert!(!may(&server, user, &format!("SUB {subject} 1")).await, "{user} subscribes to {subject}");
        }
        assert!(may(&server, user, &publish("$JS.API.STREAM.INFO.RIDE_STREAM")).await, "{user}");
        assert!(may(&server, user, "SUB pods.heartbeat 1").await, "{user}");
    }
    for subject in [
        "$JS.API.CONSUMER.CREATE.RIDE_STREAM.x",
        "$JS.API.STREAM.MSG.GET.RIDE_STREAM",
        "$JS.API.STREAM.MSG.DELETE.DEAD_LETTER_STREAM",
    ] {
        assert!(!may(&server, "observer", &publish(subject)).await, "the observer publishes {subject}");
        assert!(may(&server, "operator", &publish(subject)).await, "the operator publishes {subject}");
    }
}

#[tokio::test]
async fn a_services_user_opens_what_is_its_own_and_nothing_else() {
    let server = server();
    for (subject, writers) in [
        ("match.accepted", &["users"][..]),
        ("match.found", &["match"]),
        ("match.rejected", &["users", "match", "rides"]),
        ("user.beacon", &["users"]),
        ("ride.completed", &["rides"]),
        ("payment.capture", &["rides"]),
        ("location.update", &["users"]),
        ("location.aggregate", &["location"]),
        ("rides.command", &["users"]),
        ("matching.missed_offers", &["users"]),
        ("matching.explanation", &["users", "match", "rides", "location"]),
        ("rides.debts", &["users"]),
        ("rides.ratings", &["users"]),
        ("rides.person", &["users"]),
        ("users.parties", &["rides"]),
        ("users.contacts", &["rides"]),
        ("users.operators", &["users", "match", "rides", "location"]),
        ("rides.operators", &["users", "match", "rides", "location"]),
        ("location.operators", &["users", "match", "rides", "location"]),
        ("admin.ride_ended", &["rides"]),
        ("admin.driver_suspended", &["users"]),
        ("$JS.API.STREAM.MSG.DELETE.DEAD_LETTER_STREAM", &["users"]),
        ("$JS.API.STREAM.MSG.DELETE.ADMIN_STREAM", &[]),
        ("$JS.API.STREAM.PURGE.ADMIN_STREAM", &[]),
        ("location.service.fleet", &["match"]),
        ("location.pod.x", &["location"]),
        ("location.pod.x.drivers", &["location"]),
        ("users.session.x.notify", &["users"]),
        ("users.pod.x", &["users"]),
        ("users.broadcast", &["users"]),
        ("location.live.x", &["users"]),
        ("location.progress", &["match", "location"]),
        ("location.newest", &["users", "rides"]),
        ("users.drivers", &["users", "match", "location"]),
        ("location.driven", &["rides"]),
        ("pods.heartbeat", &["users", "match", "rides", "location"]),
        ("pods.topology", &["users", "match", "rides", "location"]),
        ("pods.x.health", &["users", "match", "rides", "location"]),
        ("$SRV.PING", &[]),
        ("$JS.API.STREAM.PURGE.RIDE_STREAM", &[]),
        ("$JS.API.STREAM.DELETE.RIDE_STREAM", &[]),
        ("$JS.API.STREAM.CREATE.X", &[]),
        ("$JS.API.STREAM.UPDATE.RIDE_STREAM", &[]),
        ("$JS.API.CONSUMER.DELETE.MATCH_STREAM.match_accepted_rides", &[]),
        ("$JS.API.CONSUMER.CREATE.RIDE_STREAM.spy", &[]),
        ("$JS.API.CONSUMER.MSG.NEXT.MATCH_STREAM.match_accepted_rides", &["rides"]),
        ("$JS.ACK.MATCH_STREAM.match_accepted_match.1.1.1.1.0", &["match"]),
        ("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.MATCH_STREAM.match_accepted_rides", &[]),
    ] {
        for service in Service::ALL.map(Service::name) {
            let may = may(&server, service, &publish(subject)).await;
            assert_eq!(may, writers.contains(&service), "{service} publishes {subject}");
        }
    }
    for (subject, readers) in [
        (">", &[][..]),
        ("*.>", &[]),
        ("_INBOX.>", &[]),
        ("_INBOX_users.>", &["users"]),
        ("_INBOX_rides.>", &["rides"]),
        ("users.session.*.notify", &["users"]),
        ("users.pod.x", &["users"]),
        ("users.broadcast", &["users"]),
        ("location.live.*", &["users"]),
        ("location.progress", &["users"]),
        ("location.pod.x", &["location"]),
        ("location.pod.x.drivers", &["location"]),
        ("location.newest location", &["location"]),
        ("location.driven location", &["location"]),
        ("users.drivers", &["users"]),
        ("ride.>", &[]),
        ("location.>", &[]),
        ("rides.command", &["rides"]),
        ("matching.missed_offers matching.missed_offers", &["match"]),
        ("matching.explanation matching.explanation", &["match"]),
        ("rides.debts", &["rides"]),
        ("rides.ratings", &["rides"]),
        ("rides.person", &["rides"]),
        ("users.contacts", &["users"]),
        ("users.parties", &["users"]),
        ("match.found", &[]),
        ("match.found rideshare.match", &[]),
        ("match.found rideshare.users", &["users"]),
        ("pods.heartbeat", &["users", "match", "rides", "location"]),
        ("users.operators", &["users"]),
        ("rides.operators", &["rides"]),
        ("location.operators", &["location"]),
        ("admin.>", &[]),
        ("$SRV.>", &[]),
        ("$SRV.STATS", &["users", "match", "rides", "location"]),
        ("$SRV.STATS.rides", &["rides"]),
        ("$SRV.INFO.users.pod-1-users", &["users"]),
        ("dead_letters.match_accepted_rides", &[]),
    ] {
        for service in Service::ALL.map(Service::name) {
            let may = may(&server, service, &format!("SUB {subject} 1")).await;
            assert_eq!(may, readers.contains(&service), "{service} subscribes to {subject}");
        }
    }
}

#[test]
fn each_service_reads_and_acknowledges_its_own_consumers_alone() {
    let configuration = configuration();
    let topology = Topology::rideshare();
    for service in Service::ALL {
        let own = configuration.split(&format!("user: \"{}\"", service.name())).nth(1).unwrap();
        let own = own.split("user: ").next().unwrap();
        for consumer in &topology.consumers {
            let (stream, durable) = (&consumer.stream, &consumer.durable);
            let is_own = topology.consumers_of(service).any(|c| c.durable == *durable);
            for subject in [
                format!("\"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}\""),
                format!("\"$JS.ACK.{stream}.{durable}.>\""),
                format!("\"dead_letters.{durable} {durable}\""),
            ] {
                assert_eq!(own.contains(&subject), is_own, "{service}: {subject}");
            }
            let fast = format!("\"{} rideshare.{service}\"", consumer.filter);
            assert_eq!(own.contains(&fast), is_fast(&consumer.filter, service), "{service}: {fast}");
        }
    }
    assert!(!configuration.contains("$JS.ACK.>") && !configuration.contains("_INBOX.>\","));
}
