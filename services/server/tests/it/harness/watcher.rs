//! Somebody who watches the bus, as with `nats sub ">"`: an operator's first command when something seems wrong. The whole
//! end-to-end suite runs beside one, because a subscriber of every subject is also a responder of every request. It checks each
//! message against the documents.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use serde_json::{Map, Value};
use streams::Bus;

use super::described::Messages;

/// The pause before a lost server is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a read may take before the watcher looks whether it is to end.
const READ_WAIT: Duration = Duration::from_millis(200);

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) messages: Messages,
    /// What is not as the documents say.
    pub(crate) faults: Vec<String>,
    /// Subjects on which the test itself sends.
    pub(crate) of_the_test: Vec<&'static str>,
}

impl Seen {
    fn see(&mut self, subject: &str, reply: Option<&str>, headers: Option<&Value>, payload: &[u8]) {
        let checked = self.messages.check(subject, reply, headers, payload);
        self.faults.extend(checked.err());
    }
}

/// Watches until it is dropped.
pub(crate) struct Watcher {
    pub(crate) seen: Arc<Mutex<Seen>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches the server at `url`, also after it was restarted.
    pub(crate) fn new(url: &str) -> Self {
        let address = url.trim_start_matches("nats://").to_owned();
        let (ended, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let (is_ended, sees) = (ended.clone(), seen.clone());
        let thread = spawn(move || {
            while !is_ended.load(Ordering::Relaxed) {
                // It ends with its connection; so does a server that a test has stopped.
                let _ = watch(&address, &is_ended, &sees);
                sleep(PAUSE);
            }
        });
        Self { seen, ended, thread: Some(thread) }
    }

    /// Watches by this connection: that of a bus in memory, or of a secured server, which lets nobody in without TLS and a user.
    pub(crate) async fn on(bus: &Bus) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut subscription = bus.subscribe(">", None).await.unwrap();
        let sees = seen.clone();
        tokio::spawn(async move {
            while let Some(message) = subscription.next().await {
                let headers: Map<String, Value> =
                    message.headers.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
                let headers = Some(Value::Object(headers)).filter(|headers| headers != &Value::Object(Map::new()));
                let reply = message.reply.as_deref();
                sees.lock().unwrap().see(&message.subject, reply, headers.as_ref(), &message.payload);
            }
        });
        Self { seen, ended: Arc::default(), thread: None }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(address: &str, ended: &AtomicBool, seen: &Mutex<Seen>) -> std::io::Result<()> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(READ_WAIT))?;
    connection.write_all(b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB > 1\r\nSUB _INBOX.> 2\r\nPING\r\n")?;
    let (mut bytes, mut unread) = ([0; 65_536], Vec::new());
    while !ended.load(Ordering::Relaxed) {
        match connection.read(&mut bytes) {
            Ok(0) => return Ok(()),
            // A PONG too many does no harm, and saves finding the PINGs.
            Ok(n) => {
                unread.extend_from_slice(&bytes[..n]);
                let read = read_messages(&unread, seen);
                unread.drain(..read);
                connection.write_all(b"PONG\r\n")?;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                connection.write_all(b"PONG\r\n")?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads the whole messages at the beginning of `bytes` and returns how many bytes they have.
fn read_messages(bytes: &[u8], seen: &Mutex<Seen>) -> usize {
    let mut at = 0;
    while let Some(end) = bytes[at..].windows(2).position(|pair| pair == b"\r\n") {
        let line = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        let body = at + end + 2;
        let words: Vec<&str> = line.split_whitespace().collect();
        // MSG subject sid [reply] size; HMSG subject sid [reply] bytes-of-headers size
        let sizes = match words[..] {
            ["MSG", .., size] => (0, size.parse().unwrap_or(0)),
            ["HMSG", .., headers, size] => (headers.parse().unwrap_or(0), size.parse().unwrap_or(0)),
            _ => {
                at = body;
                continue;
            }
        };
        let (headers, size): (usize, usize) = sizes;
        if bytes.len() < body + size + 2 {
            break;
        }
        let reply = match words[..] {
            ["MSG", _, _, reply, _] | ["HMSG", _, _, reply, _, _] => Some(reply),
            _ => None,
        };
        // `>` has it already.
        if words[2] == "1" {
            let parsed = (headers > 0).then(|| parse_headers(&bytes[body..body + headers]));
            let payload = &bytes[body + headers..body + size];
            seen.lock().unwrap().see(words[1], reply, parsed.as_ref(), payload);
        }
        at = body + size + 2;
    }
    at
}

fn parse_headers(bytes: &[u8]) -> Value {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().skip(1).filter_map(|line| line.split_once(':'));
    Value::Object(lines.map(|(name, value)| (name.to_owned(), value.trim().into())).collect())
}
