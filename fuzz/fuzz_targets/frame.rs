//! Frames that a client sends over its WebSocket.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| users::fuzzing::frame(input));
