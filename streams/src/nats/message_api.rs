//! Single messages of a stream, read and deleted by JetStream's message API, and the server's clock.
//!
//! This API returns a message as JSON with base64 in it, whatever its headers are. A delivery would not do: async-nats closes
//! the whole connection over headers that it cannot parse, and such a message must be dead-lettered too. Headers that can be
//! sent again are returned, the others are dropped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::NatsBus;
use crate::bus::message::{BusError, Headers, StoredMessage};

#[derive(Deserialize)]
struct GetMessageReply {
    message: EncodedMessage,
}

#[derive(Deserialize)]
struct EncodedMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: DateTime<Utc>,
}

/// Of the reply to `STREAM.INFO` only the server's time.
#[derive(Deserialize)]
struct ServerTime {
    ts: DateTime<Utc>,
}

impl EncodedMessage {
    fn decode(self, stream: &str) -> Result<StoredMessage, BusError> {
        let Self { subject, seq, hdrs, data, time } = self;
        let decode = |text: String| {
            STANDARD.decode(text).map_err(|e| BusError::Refused(format!("message {seq} of {stream} is no base64: {e}")))
        };
        Ok(StoredMessage {
            subject,
            headers: parse_headers(&decode(hdrs)?),
            payload: decode(data)?.into(),
            sequence: seq,
            stored_at: time,
        })
    }
}

async fn request_message(bus: &NatsBus, stream: &str, which: Value) -> Result<StoredMessage, BusError> {
    let reply: GetMessageReply = bus.api(&format!("STREAM.MSG.GET.{stream}"), &which).await?;
    reply.message.decode(stream)
}

/// The message in the JSON of a reply, if it is one.
pub(crate) fn decode_reply(reply: &[u8]) -> Option<StoredMessage> {
    serde_json::from_slice::<GetMessageReply>(reply).ok()?.message.decode("fuzzing").ok()
}

pub(crate) async fn get_message(bus: &NatsBus, stream: &str, sequence: u64) -> Result<StoredMessage, BusError> {
    request_message(bus, stream, json!({"seq": sequence})).await
}

pub(crate) async fn last_message(bus: &NatsBus, stream: &str, subject: &str) -> Result<StoredMessage, BusError> {
    request_message(bus, stream, json!({"last_by_subj": subject})).await
}

pub(crate) async fn delete_message(bus: &NatsBus, stream: &str, sequence: u64) -> Result<(), BusError> {
    let which = json!({"seq": sequence, "no_erase": true});
    match bus.api::<Value>(&format!("STREAM.MSG.DELETE.{stream}"), &which).await {
        Ok(_) => Ok(()),
        // The server has several error codes for a message that does not exist; reading it has one.
        Err(error @ BusError::Refused(_)) => match get_message(bus, stream, sequence).await {
            Err(not_found @ BusError::NotFound(_)) => Err(not_found),
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

pub(crate) async fn server_time(bus: &NatsBus, stream: &str) -> Result<DateTime<Utc>, BusError> {
    Ok(bus.api::<ServerTime>(&format!("STREAM.INFO.{stream}"), &json!({})).await?.ts)
}

/// Parses a block of headers as it was sent, and drops each line that async-nats could not send again.
pub(crate) fn parse_headers(block: &[u8]) -> Headers {
    let text = String::from_utf8_lossy(block);
    let mut headers = Headers::default();
    // The first line is the version.
    for line in text.split("\r\n").skip(1) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        if named && !value.contains(['\r', '\n']) {
            headers.add(name, value);
        }
    }
    headers.sort();
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(block: &[u8]) -> Vec<(String, String)> {
        parse_headers(block).iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn a_line_that_is_no_header_is_dropped_and_the_others_are_parsed() {
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(parse(b""), []);
        assert_eq!(parse(b"NATS/1.0\r\n\r\n"), []);
        assert_eq!(
            parse(b"NATS/1.0\r\nb: 2\r\na:1\r\na: 1:1 \r\n\r\n"),
            [pair("a", "1"), pair("a", "1:1"), pair("b", "2")]
        );
        let broken =
            b"NATS/1.0\r\nno colon\r\n: no name\r\na b: space\r\nk\xc3\xa4: y\r\nx: \xff\r\ny: a\nb\r\nz: ok\r\n\r\n";
        assert_eq!(parse(broken), [pair("x", "\u{fffd}"), pair("z", "ok")]);
        assert_eq!(parse(b"\xff\xfe"), []);
    }
}
