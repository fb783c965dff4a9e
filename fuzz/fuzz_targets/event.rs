//! Events: the input is a subject, a line feed and a body. A body that is accepted must be written and read again unchanged.

#![no_main]

use libfuzzer_sys::fuzz_target;
use streams::Event;

fuzz_target!(|input: &[u8]| {
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
});
