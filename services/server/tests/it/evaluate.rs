//! Commands that read files of trips, as people have them, and print more than is read.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::rideshare;

/// A file of this test's own, until the end of the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rideshare-{name}-{}.csv", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Standard output and standard error.
fn run(args: &[&str]) -> (bool, String, String) {
    let output = rideshare(args);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn policies(report: &Value) -> Vec<&str> {
    report.as_array().unwrap().iter().map(|side| side["policy"].as_str().unwrap()).collect()
}

const HEADER: &str = "pickup_time,dropoff_time,pickup_lat,pickup_lng,dropoff_lat,dropoff_lng\n";

/// Thirty trips of a minute each, one a minute, of both forms of a time.
fn trips() -> String {
    let row = |n: u32| {
        let time = |minute: u32| match n % 2 {
            0 => format!("2015-01-01T12:{minute:02}:00Z"),
            _ => format!("2015-01-01 12:{minute:02}:00"),
        };
        let lat = 40.7 + f64::from(n) / 1_000.0;
        format!("{},{},{lat:.4},-73.9,{:.4},-73.9\n", time(n), time(n + 2), lat + 0.01)
    };
    (0..30).map(row).collect()
}

#[test]
fn rows_that_are_no_trips_are_left_out_by_every_command() {
    let bad = "2015-01-01T12:00:00Z,2015-01-01T12:09:00Z,,,40.8,-73.9\n\
               2015-01-01T12:00:00Z,2015-01-01T12:09:00Z,0,0,40.8,-73.9\nshort\n";
    let file =
        File::new("bad-rows", &format!("\u{feff}{}{}{bad}", HEADER.replace(',', ", "), trips()).replace('\n', "\r\n"));
    let (done, report, said) =
        run(&["dispatch", "evaluate", "--requests", file.path(), "--fleet", "20", "--format", "json"]);
    assert!(done, "{said}");
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(policies(&report), ["batched", "first-come", "shortest-pair"]);
    assert_eq!(report[0]["requests"], 30);
    assert!(said.contains("3 rows are left out\n  line 32: pickup_lat: `` is no number"), "{said}");
    let (done, speeds, fit_said) = run(&["markets", "fit", "--requests", file.path()]);
    assert!(done && speeds.contains("speed_kmh"), "{fit_said}");
    assert!(fit_said.contains("3 rows are left out"), "{fit_said}");

    let without = File::new(
        "no-dropoff-times",
        &trips().replacen("2015", &format!("{}2015", HEADER.replace("dropoff_time,", "x,")), 1),
    );
    let (done, _, said) = run(&["markets", "fit", "--requests", without.path()]);
    assert!(!done && said.contains("the columns dropoff_time are missing"), "{said}");
    let unusable = File::new("unusable", &format!("{HEADER}{bad}"));
    let (done, _, said) = run(&["dispatch", "evaluate", "--requests", unusable.path(), "--fleet", "20"]);
    assert!(!done && said.contains("no row is a usable trip: 3 rows"), "{said}");
}

#[test]
fn a_small_case_has_its_optimum_and_figures_of_nobody_are_zero() {
    // The year 1 and 2015 in one file.
    let rows = "0001-01-01T00:00:00Z,,40.75,-73.98,40.76,-73.98\n2015-01-01T00:06:32Z,,40.75,-73.98,40.76,-73.98\n";
    let file = File::new("small", &format!("{HEADER}{rows}"));
    let args = ["dispatch", "evaluate", "--requests", file.path(), "--fleet", "2", "--format", "json"];
    let (done, report, said) = run(&args);
    assert!(done, "{said}");
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(policies(&report), ["batched", "first-come", "shortest-pair", "optimum"]);
    assert!(report.as_array().unwrap().iter().all(|side| side["matched"] == 2), "{report}");
    // What was named is all there is.
    let (_, report, _) = run(&[&args[..], &["--policy", "optimum,batched"]].concat());
    assert_eq!(policies(&serde_json::from_str(&report).unwrap()), ["optimum", "batched"]);
    let (done, report, _) =
        run(&[&args[..], &["--decline-rate", "0.5", "--miss-rate", "0.5", "--policy", "batched"]].concat());
    assert!(done && report.contains("\"matched\": 0") && !report.contains("-0"), "{report}");

    let large = File::new("large", &format!("{HEADER}{}", trips()));
    for (more, reason) in [
        (&["--policy", "optimum"][..], "at most 12 trips, and these are 30"),
        (&["--policy", "best"], "`best` is none of batched, first-come, shortest-pair, optimum"),
        (&["--decline-rate", "0.6", "--miss-rate", "0.6"], "must be from 0 to 1"),
        (&["--speed-mps", "1e-9"], "--speed-mps must be from 0.1 to 1000"),
    ] {
        let (done, _, said) =
            run(&[&["dispatch", "evaluate", "--requests", large.path(), "--fleet", "2"], more].concat());
        assert!(!done && said.contains(reason), "{more:?}: {said}");
    }
}

#[test]
fn a_reader_who_goes_away_is_an_ordinary_end() {
    let file = File::new("pipe", &format!("{HEADER}{}", trips()));
    let evaluate = ["dispatch", "evaluate", "--requests", file.path(), "--fleet", "20"];
    for args in
        [&evaluate[..], &["markets", "show"], &["api", "openapi"], &["markets", "fit", "--requests", file.path()]]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rideshare"));
        let mut child = command.args(args).env_clear().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success() && !said.contains("panicked"), "{args:?}: {said}");
    }
}
