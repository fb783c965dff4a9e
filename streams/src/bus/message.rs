//! The values that go over a bus: messages, deliveries, errors, and how streams and consumers are doing. Both buses and the
//! simulation use them; nothing here knows a bus.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The header by which a stream recognises a duplicate.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";

/// The most replies that are taken of those who answer one request.
pub(crate) const REPLIES_MAX: usize = 10_000;

/// The header by which the NATS client marks a message whose headers it could not parse (`third_party/async-nats/CHANGES.md`).
const MALFORMED_HEADERS: &str = "Nats-Malformed-Headers";

/// The headers of a message; names are compared without case.
#[derive(Clone, Default)]
pub struct Headers {
    own: Vec<Header>,
    /// The NATS client's map, converted only when somebody lists or changes the headers: a consumer reads two of nine.
    received: Option<Box<(async_nats::HeaderMap, OnceLock<Vec<Header>>)>>,
}

/// Name and value.
type Header = (Cow<'static, str>, Cow<'static, str>);

/// The first value of the name as it is spelled; otherwise, of several spellings, the first in the order of [`Headers::list`].
fn first_of<'a>(name: &str, headers: impl Iterator<Item = (&'a str, &'a str)>) -> Option<&'a str> {
    let mut spelled: Option<(&str, &str)> = None;
    for (known, value) in headers {
        if known == name {
            return Some(value);
        }
        if known.eq_ignore_ascii_case(name) && spelled.is_none_or(|first| (known, value) < first) {
            spelled = Some((known, value));
        }
    }
    spelled.map(|(_, value)| value)
}

impl Headers {
    pub(crate) fn from_nats(map: async_nats::HeaderMap) -> Self {
        Self { own: Vec::new(), received: Some(Box::new((map, OnceLock::new()))) }
    }

    fn list(&self) -> &[Header] {
        match &self.received {
            // The client's map has no order. Sorted by name, both buses hand headers out in the same order.
            Some(received) => received.1.get_or_init(|| {
                let all = received.0.iter();
                let all =
                    all.flat_map(|(name, values)| values.iter().map(|v| (name.to_string(), v.as_str().to_owned())));
                let mut list: Vec<Header> = all.map(|(name, value)| (name.into(), value.into())).collect();
                list.sort();
                list
            }),
            None => &self.own,
        }
    }

    fn own(&mut self) -> &mut Vec<Header> {
        if self.received.is_some() {
            self.own = self.list().to_vec();
            self.received = None;
        }
        &mut self.own
    }

    /// The first value of `name`.
    pub fn find(&self, name: &str) -> Option<&str> {
        if let Some(received) = &self.received {
            // By going through the few that there are: the map would copy the name and hash it.
            return match received.0.lines() {
                Some(lines) => first_of(name, lines),
                None => {
                    let all = received.0.iter().flat_map(|(name, values)| {
                        let name: &str = name.as_ref();
                        values.iter().map(move |value| (name, value.as_str()))
                    });
                    first_of(name, all)
                }
            };
        }
        self.own.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_ref())
    }

    /// The bytes of the headers as they are sent: `NATS/1.0\r\n`, a `name: value\r\n` for each, `\r\n`.
    pub(crate) fn wire_bytes(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        12 + self.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>()
    }

    /// Why the headers of a received message are not what was sent: some could not be parsed, and are missing here. Permanent.
    pub fn malformed(&self) -> Option<&str> {
        self.find(MALFORMED_HEADERS)
    }

    /// Sets `name` to this one value.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.put(name, Cow::Owned(value.into()));
    }

    /// Sets `name` to this one value, which is not copied.
    pub fn set_static(&mut self, name: &'static str, value: &'static str) {
        self.put(name, Cow::Borrowed(value));
    }

    fn put(&mut self, name: &'static str, value: Cow<'static, str>) {
        let own = self.own();
        own.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        own.push((Cow::Borrowed(name), value));
    }

    /// Adds a value of `name` to those that it has.
    pub fn add(&mut self, name: &str, value: impl Into<String>) {
        self.own().push((Cow::Owned(name.to_owned()), Cow::Owned(value.into())));
    }

    /// All names and values: sorted if they came from a bus, else in the order in which they were set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list().iter().map(|(n, v)| (n.as_ref(), v.as_ref()))
    }

    /// As the NATS client sends them.
    pub(crate) fn into_nats(mut self) -> async_nats::HeaderMap {
        let list = std::mem::take(self.own());
        // A value of two lines would be another header: the map refuses it.
        let is_one_line = |(_, value): &Header| !value.contains(['\r', '\n']);
        if list.iter().all(is_one_line)
            && let Some(headers) = async_nats::HeaderMap::from_block(block(&list))
        {
            return headers;
        }
        let mut map = async_nats::HeaderMap::new();
        for (name, value) in list {
            match name {
                Cow::Borrowed(name) => map.append(async_nats::HeaderName::from_static(name), value.into_owned()),
                Cow::Owned(name) => map.append(name, value.into_owned()),
            }
        }
        map
    }

    /// Sorts by name, as both buses hand headers out.
    pub(crate) fn sort(&mut self) {
        self.own().sort();
    }

    /// Whether there is no header.
    pub fn is_empty(&self) -> bool {
        self.list().is_empty()
    }
}

/// The headers as they are sent.
fn block(list: &[Header]) -> Bytes {
    let mut block =
        Vec::with_capacity(12 + list.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>());
    block.extend_from_slice(b"NATS/1.0\r\n");
    for (name, value) in list {
        for part in [name.as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            block.extend_from_slice(part);
        }
    }
    block.extend_from_slice(b"\r\n");
    block.into()
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.list() == other.list()
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Headers").field(&self.list()).finish()
    }
}

/// A message to be published to a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Without wildcards; the stream that captures it stores the message.
    pub subject: String,
    /// With [`MESSAGE_ID`], a republish within the duplicate window is not stored again.
    pub headers: Headers,
    /// The event's JSON.
    pub payload: Bytes,
}

/// A stream acknowledges a publish: it has the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The stream that captures the subject.
    pub stream: String,
    /// The message's sequence in the stream; for a duplicate, that of the first publish.
    pub sequence: u64,
    /// Whether the stream had this message id already, and stored nothing.
    pub duplicate: bool,
}

/// Why the bus did not do it.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// No answer, no connection, no leader. The outcome is unknown: try again later, with the same message id.
    #[error("the bus is not available: {0}")]
    Unavailable(String),
    /// The stream is at its limit and refuses new messages; nothing was stored.
    #[error("stream is full: {0}")]
    Full(String),
    /// The stream, consumer or message does not exist, or not any more.
    #[error("not found on the bus: {0}")]
    NotFound(String),
    /// No subscriber on the subject of a request.
    #[error("no responder on {0}")]
    NoResponders(String),
    /// The server refuses it, and will refuse it again.
    #[error("the bus refused: {0}")]
    Refused(String),
}

/// The state of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamInfo {
    /// Messages stored.
    pub messages: u64,
    /// Bytes stored, headers and the server's overhead included.
    pub bytes: u64,
    /// The oldest sequence stored; `last_sequence` + 1 if there is none.
    pub first_sequence: u64,
    /// The newest sequence ever given; 0 before the first.
    pub last_sequence: u64,
    /// Durable and ephemeral consumers.
    pub consumers: u64,
    /// The most bytes that it stores; −1 for no bound.
    pub max_bytes: i64,
}

/// The state of a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerInfo {
    /// Messages never delivered yet.
    pub pending: u64,
    /// Messages delivered, and neither acknowledged nor given up.
    pub ack_pending: u64,
    /// Of those, the ones delivered more than once.
    pub redelivered: u64,
    /// The stream sequence up to which every message is acknowledged or given up.
    pub ack_floor: u64,
    /// The highest stream sequence delivered.
    pub delivered: u64,
}

/// Where a replay begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayStart {
    /// At this stream sequence or the next one stored; 0 and 1 are the beginning.
    Sequence(u64),
    /// At the first message stored at this time or later.
    Time(DateTime<Utc>),
}

/// A message that a stream stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// As published.
    pub subject: String,
    /// As published, sorted by name.
    pub headers: Headers,
    /// As published.
    pub payload: Bytes,
    /// Unique in the stream; rises by one for each message stored.
    pub sequence: u64,
    /// When the stream stored the message, by the server's clock.
    pub stored_at: DateTime<Utc>,
}

/// A message delivered by a consumer, with the bus's handle to acknowledge it.
#[derive(Debug)]
pub struct Delivered<H> {
    /// The message as the stream stored it.
    pub message: StoredMessage,
    /// The stream that stored it.
    pub stream: String,
    /// The durable consumer that delivered it.
    pub consumer: String,
    /// Deliveries of this message by this consumer, this one included: 1, 2, 3 …
    pub deliveries: u64,
    /// Messages after this one that the consumer never delivered yet.
    pub pending: u64,
    pub(crate) ack_handle: H,
}

/// A core message: delivered at most once, to the subscribers of that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreMessage {
    /// The subject to which it was sent, without wildcards.
    pub subject: String,
    /// Empty unless it is a copy of a message published to a stream, or a reply that says what went wrong.
    pub headers: Headers,
    /// As sent.
    pub payload: Bytes,
    /// Where the sender waits for a reply. Never reply to a copy of a stream's message: there it is the publisher's inbox.
    pub reply: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map that is not a block any more: something was added to it.
    fn changed(block: &'static str) -> async_nats::HeaderMap {
        let mut map = async_nats::HeaderMap::from_block(block.into()).expect("a plain block");
        map.insert("x-last", "1");
        map
    }

    #[test]
    fn headers_of_a_block_are_those_of_the_map() {
        for lines in [
            "Nats-Msg-Id: a-1\r\nce-id: a-1\r\ntraceparent: 00-1\r\n",
            "a:1\r\nA: 2\r\nb:  3 \r\na: 0\r\nB:\r\n",
            "nats-msg-id: lower\r\nNATS-MSG-ID: upper\r\n",
            "key: one: two\r\nk\u{fc}: no name\r\n",
            "",
        ] {
            let text: &'static str = format!("NATS/1.0\r\n{lines}x-last: 1\r\n\r\n").leak();
            let Some(block) = async_nats::HeaderMap::from_block(text.into()) else {
                assert!(lines.contains('\u{fc}'), "{lines:?}");
                continue;
            };
            assert!(block.lines().is_some());
            let without: &'static str = format!("NATS/1.0\r\n{lines}\r\n").leak();
            let (block, map) = (Headers::from_nats(block), Headers::from_nats(changed(without)));
            assert_eq!(block, map, "{lines:?}");
            assert_eq!(block.wire_bytes(), map.wire_bytes());
            for name in ["Nats-Msg-Id", "ce-id", "a", "A", "b", "B", "key", "x-last", "none", "NATS-msg-id"] {
                assert_eq!(block.find(name), map.find(name), "{name} in {lines:?}");
            }
        }
    }

    #[test]
    fn what_is_no_plain_block_is_left_to_the_parser() {
        for text in [
            "NATS/1.0 503\r\n\r\n",
            "NATS/1.0\r\na: 1\r\n b\r\n\r\n",
            "NATS/1.0\r\na: 1\nb: 2\r\n\r\n",
            "NATS/1.0\r\na: 1\rb\r\n\r\n",
            "NATS/1.0\r\na\r\n\r\n",
            "NATS/1.0\r\n: 1\r\n\r\n",
            "NATS/1.0\r\na: 1\r\n",
            "NATS/1.0\r\n\r\na: 1\r\n\r\n",
            "NATS/1.0\r\n",
            "",
        ] {
            assert!(async_nats::HeaderMap::from_block(text.into()).is_none(), "{text:?}");
        }
        assert!(async_nats::HeaderMap::from_block(Bytes::from_static(b"NATS/1.0\r\na: \xff\r\n\r\n")).is_none());
    }

    #[test]
    fn headers_are_sent_as_one_block_in_their_order() {
        let mut headers = Headers::default();
        headers.set(MESSAGE_ID, "a-1");
        headers.set_static("content-type", "application/json");
        headers.add("own", "1");
        headers.add("own", "2");
        headers.set_static("content-type", "text/plain");
        let bytes = headers.wire_bytes();
        let sent = headers.into_nats();
        let lines: Vec<(&str, &str)> = sent.lines().expect("a block").collect();
        assert_eq!(lines, [(MESSAGE_ID, "a-1"), ("own", "1"), ("own", "2"), ("content-type", "text/plain")]);
        let sum: usize = lines.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        assert_eq!(bytes, 12 + sum);
    }

    #[test]
    #[should_panic(expected = "invalid header value")]
    fn a_value_of_two_lines_is_no_second_header() {
        let mut headers = Headers::default();
        headers.set("reason", "a\r\nNats-Msg-Id: b");
        headers.into_nats();
    }
}
