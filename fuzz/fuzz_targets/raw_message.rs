//! Replies of JetStream's message API, whose headers anybody may have sent. Whatever header is kept can be sent again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use streams::Headers;

fuzz_target!(|input: &[u8]| {
    check(&streams::fuzzing::parse_headers(input));
    if let Some(message) = streams::fuzzing::decode_reply(input) {
        check(&message.headers);
    }
});

fn check(headers: &Headers) {
    for (name, value) in headers.iter() {
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "name {name:?}");
        assert!(!value.contains(['\r', '\n']), "value {value:?}");
        assert!(headers.find(name).is_some(), "name {name:?}");
    }
    assert!(headers.iter().is_sorted());
}
