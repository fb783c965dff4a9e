//! The program itself: its commands, exit statuses and texts.

use testing::nats::Server;

use crate::harness::client::http;
use crate::harness::nats::Nats;
use crate::harness::rideshare;
use crate::harness::running::{Running, Shape};

#[test]
fn settings_that_cannot_work_are_refused_with_the_reason() {
    for (args, reason) in [
        (&["run", "users"][..], "run all four services"),
        (&["run", "kitchen"], "unknown service `kitchen`"),
        (&["--queue-type", "nats"], "DATABASE_URL"),
        (&["streams", "show"], "QUEUE_TYPE=nats"),
        (&["migrate"], "DATABASE_URL"),
        (&["--otp-delivery", "pigeon"], "OTP_DELIVERY"),
        (&["--payment-provider", "cash"], "PAYMENT_PROVIDER"),
        (&["--jwt-secret", "short"], "32"),
    ] {
        let output = rideshare(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{args:?}: {said}");
    }
}

/// Each of these ends with a sentence that says what to do, and that holds no password.
#[test]
fn secrets_are_not_printed_although_they_are_wrong() {
    let server = Server::configured("authorization { user: \"rs\", password: \"right\" }\n").unwrap();
    let host = server.url.replace("nats://", "");
    let login = format!("nats://rs:hunter2@{host}");
    let nats = ["--queue-type", "nats", "--nats-url"];
    for (args, reason) in [
        ([&nats[..], &[&login, "streams", "show"]].concat(), "check the user and the password"),
        ([&nats[..], &[&host, "--nats-token", "hunter2", "streams", "show"]].concat(), "check the token"),
        ([&nats[..], &[&host, "--nats-nkey", "SUhunter2", "streams", "show"]].concat(), "NATS_NKEY"),
        ([&nats[..], &[&host, "streams", "show"]].concat(), "NATS_USER and NATS_PASSWORD"),
        ([&nats[..], &["nats://rs:hunter2", "streams", "show"]].concat(), "address 1 of NATS_URL"),
        (vec!["--database-url", "postgres://rs:hunter2@:x/y", "migrate"], "DATABASE_URL"),
        (vec!["--otp-delivery", "webhook:https://rs:hunter2@example.com/x"], "OTP_DELIVERY"),
        (vec!["--otp-delivery", "webhok:https://rs:hunter2@example.com/x"], "OTP_DELIVERY"),
        (vec!["--jwt-secret", "hunter2"], "32"),
    ] {
        let args: Vec<&str> = args.into_iter().chain(["--log", "trace"]).collect();
        let output = rideshare(&args);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!output.status.success() && said.contains(reason), "{args:?}: {said}");
        assert!(!said.contains("hunter2"), "{args:?}: {said}");
    }
}

/// Every command's `--help`, which names every setting with its variable and default.
#[test]
fn help() {
    let mut text = String::new();
    let commands = [
        "",
        "run",
        "demo",
        "simulate",
        "api",
        "api openapi",
        "api asyncapi",
        "streams",
        "streams show",
        "streams apply",
        "streams export",
        "streams rewind",
        "audit",
        "audit replay",
        "audit verify",
        "audit rebuild",
        "audit repair",
        "audit recover",
        "dispatch",
        "dispatch explain",
        "dispatch what-if",
        "dead-letters",
        "dead-letters list",
        "dead-letters show",
        "dead-letters requeue",
        "dead-letters remove",
        "migrate",
    ];
    let settings = |help: &str| help.find("      --queue-type").map_or(help.len(), |at| at);
    for command in commands {
        let args: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let help = String::from_utf8(rideshare(&args).stdout).unwrap();
        // The settings are the same for every command: once is enough.
        let part = if command.is_empty() { &help } else { &help[..settings(&help)] };
        text += &format!("$ rideshare {}\n{}\n\n", args.join(" "), part.trim_end());
    }
    insta::assert_snapshot!("help", text);
}

/// `rideshare api` writes what is served.
#[tokio::test]
async fn documents_are_written_as_they_are_served() {
    let running = Running::start(Shape::Embedded, &[]).await;
    for document in ["openapi", "asyncapi"] {
        let output = rideshare(&["api", document]);
        assert!(output.status.success());
        let written: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let (status, served) = http(running.addr(), "GET", &format!("/{document}.json"), None, None).await;
        assert_eq!((status, served), (200, written), "{document}");
    }
    running.stop().await;
}

#[test]
fn export_writes_the_files_of_the_repository() {
    let directory = std::env::temp_dir().join(format!("rideshare-export-{}", std::process::id()));
    let output = rideshare(&["streams", "export", directory.to_str().unwrap()]);
    assert!(output.status.success());
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/../../streams");
    for file in ["RIDE_STREAM.json", "consumers/match_accepted_rides.json"] {
        let written = std::fs::read_to_string(directory.join(file)).unwrap();
        assert_eq!(written, std::fs::read_to_string(format!("{repository}/{file}")).unwrap(), "{file}");
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn streams_apply_brings_the_server_to_the_topology_and_show_says_so() {
    let nats = Nats::bare();
    let before = nats.rideshare(&["streams", "show"]);
    assert_eq!(before.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&before.stdout).contains("differs: stream RIDE_STREAM: missing"));
    assert!(nats.rideshare(&["streams", "apply"]).status.success());
    let after = nats.rideshare(&["streams", "show"]);
    assert!(after.status.success(), "{}", String::from_utf8_lossy(&after.stdout));
}
