//! The operators' API: who may do what, what is shown, and that each act is done once, with one event on ADMIN_STREAM.

mod acts;
mod letters;
mod people;
mod roles;
mod screens;

use std::path::PathBuf;

use platform::World;
use platform::token::hash_of;
use serde_json::{Value, json};
use streams::bus::ReplayStart;
use streams::topology::ADMIN_STREAM;
use uuid::Uuid;

use crate::harness::client::WAIT;
use crate::harness::described;
use crate::harness::running::{Running, Shape};
use crate::harness::until;

pub(crate) fn new_id() -> Uuid {
    World::real().id()
}

/// A file that is deleted with it.
pub(crate) struct TokensFile(PathBuf);

impl TokensFile {
    pub(crate) fn write(&self, lines: &[(&str, &str, &str)]) {
        let line = |(name, role, token): &(&str, &str, &str)| {
            format!("{name} {role} {}\n", hex::encode(hash_of(token.as_bytes())))
        };
        std::fs::write(&self.0, lines.iter().map(line).collect::<String>()).unwrap();
    }

    pub(crate) fn new() -> Self {
        let name = format!("rideshare-operators-{}", new_id());
        let file = Self(std::env::temp_dir().join(name));
        file.write(&[("vic", "viewer", VIEWER), ("sue", "support", SUPPORT), ("ann", "admin", ADMIN)]);
        file
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TokensFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(crate) const VIEWER: &str = "the token of a viewer";
pub(crate) const SUPPORT: &str = "the token of support";
pub(crate) const ADMIN: &str = "the token of an admin";

/// A platform with three operators.
pub(crate) struct Desk {
    pub(crate) running: Running,
    pub(crate) file: TokensFile,
}

impl Desk {
    pub(crate) async fn start(shape: Shape) -> Self {
        let file = TokensFile::new();
        let more = [
            "--admin-tokens-file",
            file.path(),
            "--track-max-speed-mps",
            "1000000",
            "--limits",
            "admin_tokens_address=10000/1",
        ];
        let running = Running::start(shape, &more).await;
        Self { running, file }
    }

    pub(crate) async fn call(
        &self,
        token: &str,
        (method, path): (&str, &str),
        key: Option<Uuid>,
        body: Option<Value>,
    ) -> (u16, Value) {
        let key = key.map(|key| key.to_string());
        let headers: Vec<(&str, &str)> = key.iter().map(|key| ("idempotency-key", key.as_str())).collect();
        let path = format!("/admin/v1{path}");
        let addr = self.running.addr();
        let answer = testing::http::answer(addr, (method, &path), Some(token), &headers, body).await.unwrap();
        described::answer(method, &path, answer.status, &answer.content_type, &answer.body);
        (answer.status, answer.body)
    }

    /// What a viewer is shown; it must be there.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(VIEWER, ("GET", path), None, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// An act of an admin.
    pub(crate) async fn act(&self, path: &str, key: Option<Uuid>, body: Value) -> (u16, Value) {
        self.call(ADMIN, ("POST", path), key, Some(body)).await
    }

    /// The same, twice with one key: the second is a repeat with the same answer.
    pub(crate) async fn done_once(&self, path: &str, body: Value) -> Value {
        let key = new_id();
        let (status, first) = self.act(path, Some(key), body.clone()).await;
        assert_eq!(
            (status, &first["repeated"], &first["act_id"]),
            (200, &json!(false), &json!(key)),
            "{path}: {first}"
        );
        let (status, second) = self.act(path, Some(key), body).await;
        assert_eq!(
            (status, &second["repeated"], &second["act_id"]),
            (200, &json!(true), &json!(key)),
            "{path}: {second}"
        );
        first
    }

    /// What operators did so far, oldest first, as the stream has it, once there are `count`.
    pub(crate) async fn acts(&self, count: usize) -> Vec<Value> {
        let bus = &self.running.apps[0].platform.bus;
        let held = async || bus.stream_info(ADMIN_STREAM).await.unwrap().messages as usize;
        until("the acts are on their stream", async || held().await >= count).await;
        let mut replay = bus.replay(ADMIN_STREAM, None, ReplayStart::Sequence(1)).await.unwrap();
        let mut acts = Vec::new();
        while !replay.is_at_end() {
            let stored = replay.next(WAIT).await.unwrap().unwrap();
            let act: Value = serde_json::from_slice(&stored.payload).unwrap();
            assert_eq!(stored.subject, format!("admin.{}", act["act"].as_str().unwrap()));
            let id = stored.headers.find("Nats-Msg-Id").unwrap();
            assert!(id.starts_with(&format!("{}-{}-", stored.subject, act["act_id"].as_str().unwrap())), "{id}");
            acts.push(act);
        }
        assert_eq!(acts.len(), count, "{acts:#?}");
        acts
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }
}
