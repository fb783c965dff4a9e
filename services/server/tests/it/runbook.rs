//! `docker/RUNBOOK.md`: each of its commands runs against a running platform, and each alarm of `docker/alerts.yaml` has a section there and
//! asks for metrics that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use platform::World;
use sqlx::Connection;
use streams::{Headers, Message};

use crate::harness::client::{Person, http};
use crate::harness::ride::{drive, online, trip};
use crate::harness::running::{Running, Shape};
use crate::harness::{rideshare, until};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

/// The texts between fences of this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().trim().to_owned()).collect()
}

#[test]
fn each_alarm_has_a_section_and_metrics_that_exist() {
    let (alarms, page) = (read("docker/alerts.yaml"), read("docker/RUNBOOK.md"));
    let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
    let sections: BTreeSet<&str> = headings.collect();
    let names: Vec<&str> = alarms.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(sections.contains(name), "docker/RUNBOOK.md has no section for the alarm {name}");
        let link = format!("runbook_url: docker/RUNBOOK.md#{}\n", name.to_lowercase());
        assert!(alarms.contains(&link), "docker/alerts.yaml: {name} has no link to its section");
    }
    let mut sources = String::new();
    for package in ["platform", "users", "server"] {
        for file in walk(&root().join("services").join(package).join("src")) {
            sources.push_str(&String::from_utf8_lossy(&std::fs::read(file).unwrap()));
        }
    }
    for name in metrics_in(&alarms) {
        assert!(is_registered(&sources, &name), "docker/alerts.yaml asks for {name}, which no process has");
    }
    let (mut boards, mut asked) = (0, BTreeSet::new());
    for file in walk(&root().join("docker/monitoring/grafana/dashboards")) {
        let Some(board) = std::fs::read_to_string(&file).ok().filter(|text| text.starts_with('{')) else { continue };
        let board: serde_json::Value = serde_json::from_str(&board).unwrap();
        boards += 1;
        for target in
            board["panels"].as_array().unwrap().iter().flat_map(|p| p["targets"].as_array().into_iter().flatten())
        {
            for name in metrics_in(target["expr"].as_str().unwrap_or_default()) {
                assert!(is_registered(&sources, &name), "{}: no process has {name}", file.display());
                asked.insert(name);
            }
        }
    }
    assert!(boards == 4 && asked.len() > 40, "{boards} {asked:?}");
}

/// The metrics of this program that a text names, without what Prometheus adds to the name of a histogram.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| {
        let rest =
            ["rideshare_", "messaging_", "http_server_", "process_"].iter().find_map(|part| word.strip_prefix(part));
        // Labels of the conventions begin as their metrics do.
        rest.is_some_and(|rest| !rest.is_empty())
            && !["_name", "_route", "_method", "_status_code"].iter().any(|end| word.ends_with(end))
    });
    let of_histogram = |word: &str| {
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| word.strip_suffix(suffix));
        base.unwrap_or(word).to_owned()
    };
    ours.map(of_histogram).collect()
}

fn is_registered(sources: &str, name: &str) -> bool {
    let parts = [Some(name), name.strip_prefix("rideshare_"), name.strip_prefix("process_")];
    parts.into_iter().flatten().any(|name| sources.contains(&format!("\"{name}\"")))
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn every_command_runs() {
    every_command(Shape::Nats).await;
}

#[tokio::test]
async fn every_command_runs_on_a_secured_server() {
    every_command(Shape::Secured).await;
}

async fn every_command(shape: Shape) {
    let running = Running::start(shape, &["--track-max-speed-mps", "1000000"]).await;
    let mut driver = Person::driver(running.addr(), 1).await.connect(None).await;
    let mut passenger = Person::passenger(running.addr(), 2).await.connect(None).await;
    online(&mut driver, 40.751).await;
    passenger.ack("finder.update", trip()).await;
    let found = driver.event("match.found").await["data"]["match_id"].clone();
    drive(&mut driver, &mut passenger, &found, &World::real()).await;
    let ride = passenger.event("ride.completed").await["data"]["ride_id"].as_str().unwrap().to_owned();
    let bus = running.bus();
    let (subject, payload) = ("location.aggregate".to_owned(), Bytes::from_static(b"{"));
    bus.publish(Message { subject, headers: Headers::default(), payload }).await.unwrap();
    until("two letters", async || bus.stream_info("DEAD_LETTER_STREAM").await.unwrap().messages == 2).await;
    running.settled().await;

    let page = read("docker/RUNBOOK.md");
    let database = running.settings.database_url.clone().unwrap();
    let mut commands = 0;
    for line in blocks(&page, "console").iter().flat_map(|block| block.lines()) {
        commands += 1;
        if let Some(path) = line.strip_prefix("GET ") {
            // After `streams rewind`, which is for a platform at rest, a process is not ready for a moment.
            until(line, async || http(running.addr(), "GET", path, None, None).await.0 == 200).await;
            continue;
        }
        let command = line.strip_prefix("$ rideshare ").unwrap_or_else(|| panic!("no command: {line}"));
        let command = command.replace("RIDE", &ride).replace("SEQUENCE", "1");
        let arguments: Vec<&str> = command.split(' ').chain(["--database-url", &database, "--log", "error"]).collect();
        let output = running.nats().rideshare_meanwhile(&arguments).await;
        // A message that cannot be read fails again.
        let expected: &[i32] = if command.starts_with("dead-letters requeue") { &[0, 1] } else { &[0] };
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(expected.contains(&output.status.code().unwrap()), "{line}: {errors}");
    }
    let mut connection = sqlx::PgConnection::connect(&database).await.unwrap();
    for query in blocks(&page, "sql") {
        commands += 1;
        let query = sqlx::AssertSqlSafe(query);
        sqlx::query(query).fetch_all(&mut connection).await.unwrap();
    }
    assert!(commands > 20, "{commands}");
    drop((driver, passenger));
    running.stop().await;
}

/// The part of the page under this title, with the sections below it.
fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let text = page.split(&format!("\n## {title}\n")).nth(1).unwrap_or_else(|| panic!("no section {title}"));
    text.split("\n## ").next().unwrap()
}

/// Every setting that holds a secret, or the name of a file that does, can be changed as the page says.
#[test]
fn each_secret_has_its_rotation() {
    let page = read("docker/RUNBOOK.md");
    let rotation = section(&page, "Rotate secrets");
    let command = <server::cli::Cli as clap::CommandFactory>::command();
    let mut secrets = 0;
    for argument in command.get_arguments() {
        let Some(name) = argument.get_env().and_then(|name| name.to_str()) else { continue };
        let is_key_file = name.ends_with("_FILE") && name != "MARKETS_FILE"
            || ["NATS_CA", "NATS_CERT", "NATS_KEY", "NATS_CREDS"].contains(&name);
        if argument.is_hide_env_values_set() || is_key_file {
            secrets += 1;
            assert!(rotation.contains(&format!("`{name}`")), "docker/RUNBOOK.md, Rotate secrets: nothing of {name}");
        }
    }
    assert!(secrets > 20, "{secrets}");
}

/// What a sentence of the page names is there: commands of the program, scripts, files and tests.
#[test]
fn what_is_named_exists() {
    for file in ["docker/RUNBOOK.md", "docker/RUNBOOK-memory-to-nats.md"] {
        // A command may be broken at the end of a line.
        let page = read(file).replace('\n', " ");
        for (n, code) in page.split('`').enumerate().filter(|(n, _)| n % 2 == 1) {
            let words: Vec<&str> = code.split_whitespace().collect();
            match words[..] {
                ["rideshare", ref command @ ..] => {
                    let named =
                        command.iter().take_while(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
                    let help: Vec<&str> = named.copied().chain(["--help"]).collect();
                    let output = rideshare(&help);
                    let errors = String::from_utf8_lossy(&output.stderr);
                    assert!(output.status.success(), "{file}, {n}: {code}: {errors}");
                }
                [path, ..] if ["scripts/", "docker/", "services/"].iter().any(|part| path.starts_with(part)) => {
                    // `docker/certs` is made by an operator.
                    let is_there = path == "docker/certs" || root().join(path).exists();
                    assert!(is_there, "{file}: there is no {path}");
                }
                _ => {}
            }
        }
    }
}
