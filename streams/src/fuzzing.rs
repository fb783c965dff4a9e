//! What the fuzz targets of `fuzz/` and the short run in the suite call. Nothing else does.

use crate::Event;
use crate::bus::Headers;
use crate::nats::message_api;

/// Reads `input` as a subject, a line feed and a body of an event.
///
/// # Panics
/// If an event that is accepted is not written and read again unchanged.
pub fn event(input: &[u8]) {
    let Some(end) = input.iter().position(|&byte| byte == b'\n') else { return };
    let (subject, body) = (&input[..end], &input[end + 1..]);
    let Ok(subject) = std::str::from_utf8(subject) else { return };
    let Ok(event) = Event::parse(subject, body) else { return };
    // Not compared with `event`: the text has microseconds, and the input may have had nanoseconds.
    let written = event.body();
    let read = Event::parse(subject, &written).expect("an event that was accepted once is accepted again");
    assert_eq!(read.body(), written);
    assert_eq!(event.subject().as_str(), subject);
    assert_eq!(read.message_id(Default::default()), event.message_id(Default::default()));
}

/// Reads `input` as a block of headers and as a reply of JetStream's message API, whose headers anybody may have sent.
///
/// # Panics
/// If a header is kept that cannot be sent again.
pub fn raw_message(input: &[u8]) {
    check(&message_api::parse_headers(input));
    if let Some(message) = message_api::decode_reply(input) {
        check(&message.headers);
    }
}

fn check(headers: &Headers) {
    for (name, value) in headers.iter() {
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "name {name:?}");
        assert!(!value.contains(['\r', '\n']), "value {value:?}");
        assert!(headers.find(name).is_some(), "name {name:?}");
    }
    assert!(headers.iter().is_sorted());
}
