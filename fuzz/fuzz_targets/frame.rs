//! Frames that a client sends over its WebSocket. The socket delivers only UTF-8.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| users::fuzzing::parse_frame(text));
