//! Single messages of a stream, read and removed by JetStream's own API, and its clock.
//!
//! The server hands a message out as JSON here, whatever its headers are; async-nats ends the whole connection over headers
//! that it cannot read, and such a message must be told of as well. What of them can be sent again is kept.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::NatsBus;
use crate::bus::{BusError, Headers, StoredMessage};

#[derive(Deserialize)]
struct Answer {
    message: Raw,
}

#[derive(Deserialize)]
struct Raw {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: DateTime<Utc>,
}

#[derive(Deserialize)]
struct Told {
    ts: DateTime<Utc>,
}

impl NatsBus {
    async fn raw(&self, stream: &str, which: Value) -> Result<StoredMessage, BusError> {
        let Raw { subject, seq, hdrs, data, time } =
            self.api::<Answer>(&format!("STREAM.MSG.GET.{stream}"), &which).await?.message;
        let decode = |text: String| {
            STANDARD.decode(text).map_err(|e| BusError::Refused(format!("message {seq} of {stream} is no base64: {e}")))
        };
        Ok(StoredMessage {
            subject,
            headers: readable(&decode(hdrs)?),
            payload: decode(data)?.into(),
            sequence: seq,
            stored_at: time,
        })
    }

    pub(crate) async fn get_message(&self, stream: &str, sequence: u64) -> Result<StoredMessage, BusError> {
        self.raw(stream, json!({"seq": sequence})).await
    }

    pub(crate) async fn last_message(&self, stream: &str, subject: &str) -> Result<StoredMessage, BusError> {
        self.raw(stream, json!({"last_by_subj": subject})).await
    }

    pub(crate) async fn delete_message(&self, stream: &str, sequence: u64) -> Result<(), BusError> {
        let which = json!({"seq": sequence, "no_erase": true});
        match self.api::<Value>(&format!("STREAM.MSG.DELETE.{stream}"), &which).await {
            Ok(_) => Ok(()),
            // It has several words for a message that is not there.
            Err(error @ BusError::Refused(_)) => match self.get_message(stream, sequence).await {
                Err(gone @ BusError::NotFound(_)) => Err(gone),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn server_time(&self, stream: &str) -> Result<DateTime<Utc>, BusError> {
        Ok(self.api::<Told>(&format!("STREAM.INFO.{stream}"), &json!({})).await?.ts)
    }
}

/// The headers of a block as it was sent, without the lines that no client of ours could send again.
fn readable(block: &[u8]) -> Headers {
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

    fn read(block: &[u8]) -> Vec<(String, String)> {
        readable(block).iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn headers_are_read_as_far_as_they_can_be() {
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(read(b""), []);
        assert_eq!(read(b"NATS/1.0\r\n\r\n"), []);
        assert_eq!(
            read(b"NATS/1.0\r\nb: 2\r\na:1\r\na: 1:1 \r\n\r\n"),
            [pair("a", "1"), pair("a", "1:1"), pair("b", "2")]
        );
        let broken =
            b"NATS/1.0\r\nno colon\r\n: no name\r\na b: space\r\nk\xc3\xa4: y\r\nx: \xff\r\ny: a\nb\r\nz: kept\r\n\r\n";
        assert_eq!(read(broken), [pair("x", "\u{fffd}"), pair("z", "kept")]);
        assert_eq!(read(b"\xff\xfe"), []);
    }
}
