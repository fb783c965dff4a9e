//! Rules of the sources themselves: which files are pure, which words are used, and that no files import each other in a circle.

mod circles;
mod purity;
mod words;

use std::path::{Path, PathBuf};

/// A file of a crate's `src`.
struct Source {
    /// From the repository's root.
    path: String,
    text: String,
}

impl Source {
    fn read(path: &str) -> Self {
        let text = std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.to_owned(), text }
    }

    /// Its code without comments and without an inline `mod tests`, which is last in a file.
    fn code(&self) -> String {
        let code = self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The `src` of each crate, from the repository's root.
fn crates() -> Vec<String> {
    let services = std::fs::read_dir(repository().join("services")).unwrap();
    let names = services.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut all: Vec<String> = names.map(|name| format!("services/{name}/src")).collect();
    all.push("streams/src".to_owned());
    all.sort();
    all
}

/// The sources under `directory`, without files of tests.
fn sources(directory: &str) -> Vec<Source> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(repository().join(directory)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{directory}/{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            if !path.ends_with("/tests") {
                all.extend(sources(&path));
            }
        } else if path.ends_with(".rs") && !path.ends_with("/tests.rs") {
            all.push(Source::read(&path));
        }
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}
