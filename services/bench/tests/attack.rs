//! A short run of `scripts/attack`: nobody honest is refused, locked out or served wrongly, and no sign-in is won by guessing. It
//! looks at no times.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The program beside the bench: a whole workspace's tests build it.
fn rideshare() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_rideshare-bench")).with_file_name("rideshare");
    assert!(program.exists(), "no {}: build it with `cargo build --package server`", program.display());
    program
}

fn run(only: &str, arguments: &[&str]) {
    let database = tokio::runtime::Runtime::new().unwrap().block_on(testing::database::fresh());
    let nats = testing::nats::Server::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rideshare-bench"))
        .args(["--only", only, "--nats-url", &nats.url, "--database-url", &database, "--binary"])
        .arg(rideshare())
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn honest_people_never_notice_ten_attackers() {
    run("attack", &["--seconds", "8", "--people", "3"]);
}

#[test]
fn guessing_never_wins_a_sign_in() {
    run("guesses", &["--guesses", "10000"]);
}
