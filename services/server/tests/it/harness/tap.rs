//! A client's connections as they were, byte for byte: every answer, and every frame of a WebSocket, against the documents.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use simulator::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

use super::described;

/// The bytes of one connection, in both directions.
#[derive(Debug, Default)]
struct Connection {
    sent: Vec<u8>,
    received: Vec<u8>,
}

/// All connections of a city.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tap(Arc<Mutex<Vec<Arc<Mutex<Connection>>>>>);

impl Tap {
    /// Connections to `addr`, whatever host they name.
    pub(crate) fn transport(&self, addr: SocketAddr) -> Transport {
        let tap = self.clone();
        Transport::Memory(Arc::new(move |_| {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let connection = Arc::<Mutex<Connection>>::default();
            tap.0.lock().unwrap().push(connection.clone());
            tokio::spawn(pass(far, addr, connection));
            Ok(near)
        }))
    }

    /// Checks everything that was received. Returns how many answers and frames of each kind there were.
    pub(crate) fn check(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for connection in self.0.lock().unwrap().iter() {
            let connection = connection.lock().unwrap();
            for kind in check(&connection.sent, &connection.received) {
                *counts.entry(kind).or_default() += 1;
            }
        }
        counts
    }
}

async fn pass(far: DuplexStream, addr: SocketAddr, connection: Arc<Mutex<Connection>>) {
    let Ok(server) = TcpStream::connect(addr).await else { return };
    let (from_client, to_client) = tokio::io::split(far);
    let (from_server, to_server) = tokio::io::split(server);
    let (up, down) = (connection.clone(), connection);
    tokio::join!(
        copy(from_client, to_server, move |bytes| up.lock().unwrap().sent.extend_from_slice(bytes)),
        copy(from_server, to_client, move |bytes| down.lock().unwrap().received.extend_from_slice(bytes)),
    );
}

async fn copy<R, W>(mut from: ReadHalf<R>, mut to: WriteHalf<W>, seen: impl Fn(&[u8]))
where
    R: AsyncReadExt,
    W: AsyncWriteExt,
{
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(n) = from.read(&mut bytes).await {
        if n == 0 || to.write_all(&bytes[..n]).await.is_err() {
            break;
        }
        seen(&bytes[..n]);
    }
    let _ = to.shutdown().await;
}

/// Head and body of an HTTP message that has come whole.
fn split_head(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((String::from_utf8_lossy(&bytes[..end]).into_owned(), &bytes[end + 4..]))
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().unwrap_or_default()
}

/// The one exchange of a connection, or its WebSocket. A connection that was cut has less.
fn check(sent: &[u8], received: &[u8]) -> Vec<String> {
    let (Some((request, commands)), Some((head, body))) = (split_head(sent), split_head(received)) else {
        return Vec::new();
    };
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let status: u16 = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    if status == 101 {
        return check_socket(commands, body);
    }
    if header(&head, "content-length").parse().unwrap_or(0) > body.len() {
        return Vec::new();
    }
    let text = || String::from_utf8_lossy(body).into_owned().into();
    let value: Value = serde_json::from_slice(body).unwrap_or_else(|_| text());
    described::answer(method, path, status, header(&head, "content-type"), &value);
    vec![format!("{status} {method} {}", path.split(['?']).next().unwrap().split("/01").next().unwrap())]
}

fn check_socket(commands: &[u8], frames: &[u8]) -> Vec<String> {
    let commands: Vec<Value> = texts(commands);
    let of = |id: &Value| commands.iter().find(|command| command["id"] == *id);
    let mut kinds = Vec::new();
    for frame in texts(frames) {
        described::frame(&frame);
        let kind = frame["type"].as_str().unwrap().to_owned();
        // Of a command without an id the answer says not which it is.
        if kind == "ack" && !frame["id"].is_null() {
            let command = of(&frame["id"]).expect("the command of an ack");
            described::acked(command, &frame["data"]);
            kinds.push(format!("ack of {}", command["type"].as_str().unwrap()));
        }
        kinds.push(format!("frame {kind}"));
    }
    kinds
}

/// The JSON of each whole text frame (RFC 6455, 5.2).
fn texts(mut bytes: &[u8]) -> Vec<Value> {
    let mut texts = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (is_masked, mut at) = (second & 0x80 != 0, 0);
        let length_bytes = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if rest.len() < length_bytes {
            break;
        }
        let extended = rest[..length_bytes].iter().fold(0, |length, byte| (length << 8) | usize::from(*byte));
        let length = if length_bytes == 0 { usize::from(second & 0x7f) } else { extended };
        at += length_bytes;
        let mask = if is_masked { rest.get(at..at + 4) } else { Some(&[0; 4][..]) };
        at += if is_masked { 4 } else { 0 };
        let (Some(mask), Some(payload)) = (mask, rest.get(at..at + length)) else { break };
        if first & 0x0f == 1 {
            assert!(first & 0x80 != 0, "a text in one frame");
            let text: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            texts.push(serde_json::from_slice(&text).unwrap());
        }
        bytes = &rest[at + length..];
    }
    texts
}
