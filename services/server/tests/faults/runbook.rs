//! The blocks of `docker/RUNBOOK.md` that only a rehearsal can run: those for a shell. A rehearsal runs the block itself, with its own names in the
//! place of those that the page has for an example.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rehearsal of each section with such blocks, and how many it runs.
const REHEARSED: [(&str, usize); 4] =
    [("Restore", 1), ("Passwords of PostgreSQL", 1), ("Certificates of NATS", 5), ("Failover of PostgreSQL", 1)];

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    std::fs::read_to_string(repository().join("docker/RUNBOOK.md")).unwrap()
}

/// The sections by their titles, each to the next title of any level.
fn sections(page: &str) -> Vec<(&str, Vec<&str>)> {
    let parts = page.split("\n#").skip(1);
    parts
        .filter_map(|part| {
            let (title, text) = part.split_once('\n')?;
            let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
            Some((title.trim_start_matches('#').trim(), blocks.collect()))
        })
        .collect()
}

/// The block of this number in a section, with each of these texts replaced, of which it must have one.
pub(crate) fn block(section: &str, number: usize, replaced: &[(&str, &str)]) -> String {
    let page = page();
    let sections = sections(&page);
    let (_, blocks) = sections.iter().find(|(title, _)| *title == section).expect("a section of this title");
    let mut block = blocks[number].to_owned();
    for (from, to) in replaced {
        assert!(block.contains(from), "{section}: no {from} in {block}");
        block = block.replace(from, to);
    }
    block
}

/// Runs such a block in `directory`; it must succeed.
pub(crate) fn run(block: &str, directory: &Path, environment: &[(&str, String)]) {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", block]).current_dir(directory).envs(environment.iter().cloned());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{block}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_block_for_a_shell_is_rehearsed() {
    let page = page();
    let all = sections(&page).into_iter().filter(|(_, blocks)| !blocks.is_empty());
    let all: BTreeSet<_> = all.map(|(title, blocks)| (title.to_owned(), blocks.len())).collect();
    let rehearsed = REHEARSED.map(|(title, blocks)| (title.to_owned(), blocks));
    assert_eq!(all, rehearsed.into(), "docker/RUNBOOK.md, and what the rehearsals run");
}
