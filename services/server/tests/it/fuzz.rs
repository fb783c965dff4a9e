//! A short run of the fuzz targets: every input of `fuzz/seeds`, and a bounded number of mutations of them. `scripts/fuzz` is the
//! long run, which is guided by coverage; what it finds is added to `fuzz/seeds`.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Mutated inputs of a target; some seconds in a build without optimisation.
const MUTATIONS: usize = 50_000;
const INPUT_MAX: usize = 4_096;

/// Texts that parsers treat in a way of their own.
const TOKENS: [&[u8]; 18] = [
    b"null",
    b"true",
    b"-0",
    b"1e309",
    b"9223372036854775808",
    b"18446744073709551616",
    b"0.1",
    b"\"\"",
    b"{}",
    b"[]",
    b"\\u0000",
    b"\\ud800",
    b"2090-01-01T00:00:00Z",
    b"2016-12-31T23:59:60Z",
    b"\r\n",
    b"NATS/1.0",
    b"\xff",
    b"\xe2\x80\xae",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no inputs", folder.display());
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// One of: flip a bit, replace a byte, delete a part, double a part, insert a token, splice with another seed.
fn mutate(input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    let at = rng.random_range(0..=input.len());
    let end = rng.random_range(at..=input.len().min(at + 64));
    match rng.random_range(0..6) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = rng.random(),
        2 => drop(input.drain(at..end)),
        3 => {
            let part = input[at..end].to_vec();
            input.splice(at..at, part);
        }
        4 => {
            let token = TOKENS[rng.random_range(0..TOKENS.len())];
            input.splice(at..end, token.iter().copied());
        }
        _ => {
            let from = rng.random_range(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
    input.truncate(INPUT_MAX);
}

/// Writes the input that fails before the test ends, as a file to be added to `fuzz/seeds`.
struct Current<'a>(&'a str, Vec<u8>);

impl Drop for Current<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = std::env::temp_dir().join(format!("fuzz-{}-failed", self.0));
            let _ = std::fs::write(&path, &self.1);
            eprintln!("the input that failed is in {}: {:?}", path.display(), String::from_utf8_lossy(&self.1));
        }
    }
}

fn short_run(target: &str, run: fn(&[u8])) {
    let seeds = seeds(target);
    let mut current = Current(target, Vec::new());
    for seed in &seeds {
        current.1.clone_from(seed);
        run(&current.1);
    }
    let mut rng = StdRng::seed_from_u64(9);
    for n in 0..MUTATIONS {
        current.1.clone_from(&seeds[n % seeds.len()]);
        let other = &seeds[rng.random_range(0..seeds.len())];
        for _ in 0..rng.random_range(1..=4) {
            mutate(&mut current.1, other, &mut rng);
        }
        run(&current.1);
    }
}

#[test]
fn events_of_anybody_never_panic() {
    short_run("event", streams::fuzzing::event);
}

#[test]
fn headers_of_anybody_never_panic() {
    short_run("raw_message", streams::fuzzing::raw_message);
}

#[test]
fn frames_of_anybody_never_panic() {
    short_run("frame", users::fuzzing::frame);
}
