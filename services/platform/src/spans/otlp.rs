//! Spans as OTLP's `ExportTraceServiceRequest`, in protobuf. Pure.
//!
//! The messages that are written are few and fixed, so that a writer of a page takes the place of eight crates. The tests of `server`
//! decode what it writes with the published types (`opentelemetry-proto`).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::span::{Attribute, Span};

/// Whose spans these are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    /// Its name for all parts; without it each part has its own.
    pub service_name: Option<String>,
    pub attributes: Vec<(String, String)>,
}

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

/// How a field is encoded: the low bits of its tag.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    fn tag(&mut self, field: u64, encoding: u64) {
        self.varint(field << 3 | encoding);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.tag(field, BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A text, or the id in a text of hexadecimal digits.
    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn id(&mut self, field: u64, hexadecimal: &str) {
        self.bytes(field, &hex::decode(hexadecimal).unwrap_or_default());
    }

    fn number(&mut self, field: u64, value: u64) {
        self.tag(field, VARINT);
        self.varint(value);
    }

    fn time(&mut self, field: u64, at: DateTime<Utc>) {
        self.tag(field, FIXED64);
        let nanos = at.timestamp_nanos_opt().and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or_default();
        self.0.extend_from_slice(&nanos.to_le_bytes());
    }

    fn flags(&mut self, field: u64, flags: u32) {
        self.tag(field, FIXED32);
        self.0.extend_from_slice(&flags.to_le_bytes());
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    fn attribute(&mut self, field: u64, name: &str, value: &Attribute) {
        self.message(field, |pair| {
            pair.text(1, name);
            pair.message(2, |any| match value {
                Attribute::Text(text) => any.text(1, text),
                // Two's complement, as protobuf writes an int64.
                Attribute::Number(number) => any.number(3, u64::from_le_bytes(number.to_le_bytes())),
            });
        });
    }
}

/// The request that exports `spans`.
pub(super) fn request(resource: &Resource, spans: &[Span]) -> Vec<u8> {
    let mut by_part: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        by_part.entry(span.part).or_default().push(span);
    }
    let mut request = Message::default();
    for (part, spans) in by_part {
        request.message(1, |resource_spans| {
            resource_spans.message(1, |message| {
                let name = resource.service_name.as_deref().unwrap_or(part);
                message.attribute(1, "service.name", &name.into());
                for (name, value) in &resource.attributes {
                    message.attribute(1, name, &value.as_str().into());
                }
            });
            resource_spans.message(2, |scope_spans| {
                scope_spans.message(1, |scope| scope.text(1, part));
                for span in spans {
                    scope_spans.message(2, |message| write_span(message, span));
                }
            });
        });
    }
    request.0
}

fn write_span(message: &mut Message, span: &Span) {
    let flags = |is_sampled: bool| u32::from(is_sampled);
    message.id(1, span.trace.trace_id());
    message.id(2, span.trace.span_id());
    if let Some(parent) = span.trace.parent() {
        message.id(4, parent);
    }
    message.text(5, &span.name);
    message.number(6, span.kind as u64);
    message.time(7, span.began_at);
    message.time(8, span.ended_at);
    for (name, value) in &span.attributes {
        message.attribute(9, name, value);
    }
    for link in &span.links {
        message.message(13, |message| {
            message.id(1, link.trace_id());
            message.id(2, link.span_id());
            message.flags(6, flags(link.is_sampled()));
        });
    }
    if let Some(error) = &span.error {
        message.message(15, |status| {
            status.text(2, error);
            // STATUS_CODE_ERROR
            status.number(3, 2);
        });
    }
    message.flags(16, flags(span.trace.is_sampled()));
}
