//! Blocks of headers, and replies of JetStream's message API.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| streams::fuzzing::raw_message(input));
