//! Old processes beside new ones: events that a former version stored are read, what a newer version adds is ignored, and what this version
//! writes has every field that the former one needs. And migrations: none locks a table in use for long.
//!
//! `stored/` has a file of event bodies for each version whose messages may still be in a stream or an outbox.

use std::path::Path;

use serde_json::{Value, json};
use streams::Event;

const STORED: [(&str, &str); 1] = [("2026-11-25", include_str!("stored/2026-11-25.jsonl"))];

fn stored() -> impl Iterator<Item = (&'static str, String, Value)> {
    STORED.into_iter().flat_map(|(version, lines)| {
        lines.lines().map(move |line| {
            let line: Value = serde_json::from_str(line).unwrap();
            (version, line["subject"].as_str().unwrap().to_owned(), line["body"].clone())
        })
    })
}

fn parse(subject: &str, body: &Value) -> Event {
    Event::parse(subject, body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{subject}: {error}"))
}

/// The same with a field that nobody knows in every object.
fn with_more(body: &Value) -> Value {
    match body {
        Value::Object(fields) => {
            let mut fields: serde_json::Map<_, _> = fields.iter().map(|(k, v)| (k.clone(), with_more(v))).collect();
            fields.insert("of_a_later_version".to_owned(), json!({"x": [1, null]}));
            Value::Object(fields)
        }
        Value::Array(items) => items.iter().map(with_more).collect(),
        other => other.clone(),
    }
}

/// The first path of `old` that `new` has not, or has with another kind of value.
fn missing(old: &Value, new: &Value, path: &str) -> Option<String> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            new.get(name).map_or(Some(path.clone()), |new| missing(value, new, &path))
        }),
        (Value::Array(old), Value::Array(new)) => {
            old.iter().zip(new).find_map(|(old, new)| missing(old, new, &format!("{path}[]")))
        }
        (old, new) => (old != new).then(|| path.to_owned()),
    }
}

#[test]
fn events_of_former_versions_are_read_and_written_so_that_these_can_read_them() {
    let mut subjects = 0;
    for (version, subject, body) in stored() {
        let event = parse(&subject, &body);
        let written: Value = serde_json::from_slice(&event.body()).unwrap();
        assert_eq!(missing(&body, &written, &subject), None, "a process of {version} reads {written}");
        subjects += 1;
    }
    assert!(subjects >= 13, "{subjects}");
}

#[test]
fn what_a_later_version_adds_to_an_event_is_ignored() {
    for (_, subject, body) in stored() {
        assert_eq!(parse(&subject, &with_more(&body)), parse(&subject, &body), "{subject}");
    }
}

/// The migrations up to here were applied before this rule: they are not looked at.
const BASELINE: [(&str, u32); 5] =
    [("platform", 2), ("users", 153), ("matching", 105), ("rides", 112), ("location", 107)];

/// Statements of a migration, in lower case and with single spaces, without comments. Bodies of functions are left whole.
fn statements(sql: &str) -> Vec<String> {
    let code: Vec<&str> = sql.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
    let mut statements = vec![String::new()];
    for (n, part) in code.join(" ").split("$$").enumerate() {
        let mut pieces = if n % 2 == 1 { vec![part] } else { part.split(';').collect() }.into_iter();
        statements.last_mut().unwrap().push_str(pieces.next().unwrap_or_default());
        statements.extend(pieces.map(str::to_owned));
    }
    let plain = |text: String| text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    statements.into_iter().map(plain).filter(|statement| !statement.is_empty()).collect()
}

/// Why a statement may lock a table that other processes use for longer than a moment; `created` are the tables of the same file.
fn locks_long(statement: &str, created: &[String]) -> Option<&'static str> {
    let words: Vec<&str> = statement.split(' ').collect();
    let is_new = |table: &str| created.iter().any(|one| one == table.trim_end_matches('('));
    match words[..] {
        ["create", "table", ..] | ["create", "unlogged", "table", ..] => None,
        ["create", "index", "concurrently", ..] | ["create", "unique", "index", "concurrently", ..] => None,
        ["create", "view" | "function", ..] | ["create", "or", "replace", "view" | "function", ..] => None,
        ["comment", "on", ..] | ["drop", "view" | "function", ..] => None,
        ["create", "index", _, "on", table, ..] | ["create", "unique", "index", _, "on", table, ..] => {
            (!is_new(table)).then_some("an index without `concurrently` keeps everybody from writing while it is built")
        }
        ["insert", "into", table, ..] => {
            (!is_new(table)).then_some("rows of a table in use: write them in pages, by the program")
        }
        ["update" | "delete", ..] => {
            Some("every row that it touches stays locked: change rows in pages, by the program")
        }
        ["alter", "table", table, ..] if is_new(table) => None,
        ["alter", "table", _, ref change @ ..] => alters_long(&change.join(" ")),
        ["drop", "index", ..] | ["drop", "trigger", ..] => None,
        _ => Some("this statement is not in the list of those that are known to be short"),
    }
}

/// What an `alter table` does to a table in use. Each kind of change that is allowed takes its lock for a moment and reads no row.
fn alters_long(changes: &str) -> Option<&'static str> {
    for change in changes.split(", ") {
        let added = change.strip_prefix("add column ");
        let is_short = match added {
            Some(column) => {
                let volatile = ["(", "references", "unique", "primary key", "generated", "check"];
                let default = column.contains(" default ") || !column.contains("not null");
                default && !volatile.iter().any(|word| column.contains(word))
            }
            None => {
                let starts = ["alter column ", "drop constraint ", "rename ", "validate constraint "];
                let is_alter = change.starts_with(starts[0])
                    && ["drop not null", "drop default", "set default"].iter().any(|end| change.contains(end));
                let added = change.starts_with("add constraint ") && change.ends_with("not valid");
                is_alter || added || starts[1..].iter().any(|start| change.starts_with(start))
            }
        };
        if !is_short {
            return Some("it may read or rewrite every row under an exclusive lock, or old processes may not know it");
        }
    }
    None
}

fn created(statements: &[String]) -> Vec<String> {
    let table = |statement: &String| {
        let words: Vec<&str> = statement.split(' ').collect();
        match words[..] {
            ["create", "table", "if", "not", "exists", table, ..] => Some(table.to_owned()),
            ["create", "table", table, ..] | ["create", "unlogged", "table", table, ..] => Some(table.to_owned()),
            _ => None,
        }
    };
    statements.iter().filter_map(table).collect()
}

#[test]
fn no_new_migration_locks_a_table_in_use_for_long() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
    let mut wrong = Vec::new();
    for (service, baseline) in BASELINE {
        let mut files: Vec<_> = std::fs::read_dir(root.join(service)).unwrap().map(|file| file.unwrap()).collect();
        files.sort_by_key(|file| file.file_name());
        for file in files {
            let name = file.file_name().into_string().unwrap();
            let number: u32 = name.split('_').next().unwrap().parse().unwrap();
            if number <= baseline {
                continue;
            }
            let statements = statements(&std::fs::read_to_string(file.path()).unwrap());
            let created = created(&statements);
            for statement in &statements {
                if let Some(why) = locks_long(statement, &created) {
                    wrong.push(format!("migrations/{service}/{name}: {why}: {statement}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_rule_of_migrations_tells_short_locks_from_long_ones() {
    for (sql, is_short) in [
        ("create table a (id uuid not null default gen_random_uuid()); create index a_id on a (id);", true),
        ("create table a (id int); insert into a values (1); alter table a add constraint x check (id > 0);", true),
        ("alter table b add column c text;", true),
        ("alter table b add column c boolean not null default false, add column d int;", true),
        ("-- no-transaction\ncreate index concurrently b_c on b (c);", true),
        ("alter table b add constraint b_c check (c > 0) not valid;", true),
        ("alter table b alter column c drop not null;", true),
        ("create function f() returns trigger language plpgsql as $$ begin update b set c = 1; end $$;", true),
        ("create index b_c on b (c);", false),
        ("create unique index b_c on b (c);", false),
        ("alter table b add column c timestamptz not null default now();", false),
        ("alter table b add column c text not null;", false),
        ("alter table b add column c uuid references a (id);", false),
        ("alter table b add constraint b_c check (c > 0);", false),
        ("alter table b alter column c type bigint;", false),
        ("alter table b alter column c set not null;", false),
        ("alter table b add column c text, drop column d;", false),
        ("update b set c = 1;", false),
        ("delete from b;", false),
        ("drop table b;", false),
        ("truncate b;", false),
        ("lock table b;", false),
    ] {
        let statements = statements(sql);
        let created = created(&statements);
        let found: Vec<_> = statements.iter().filter_map(|statement| locks_long(statement, &created)).collect();
        assert_eq!(found.is_empty(), is_short, "{sql}: {found:?}");
    }
}
