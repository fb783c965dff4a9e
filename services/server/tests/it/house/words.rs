//! The field's words: what was renamed does not come back under its old name.

use super::{crates, sources, words};

/// Old words, as a part of an identifier or in a comment.
const BANNED: &[&str] =
    &["anew", "heard", "hints", "keeper", "mend", "mended", "mends", "noted", "retold", "suspects", "told"];

/// `is_noted` and `keptEvents` are of more words than one.
fn parts(word: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for c in word.chars() {
        if c == '_' || c.is_uppercase() {
            parts.push(String::new());
        }
        if c != '_' {
            parts.last_mut().unwrap().extend(c.to_lowercase());
        }
    }
    parts
}

#[test]
fn old_words_do_not_come_back() {
    let mut found = Vec::new();
    for source in crates().iter().flat_map(|directory| sources(directory)) {
        for (n, line) in (1..).zip(source.text.lines()) {
            // Between quotes are names on the wire.
            let line = line.split('"').step_by(2).collect::<Vec<_>>().join(" ");
            let old = words(&line).find(|word| parts(word).iter().any(|part| BANNED.contains(&part.as_str())));
            found.extend(old.map(|word| format!("{}:{n}: {word}", source.path)));
        }
    }
    assert!(found.is_empty(), "old words, see the glossary in ARCHITECTURE.md:\n{}", found.join("\n"));
}
