//! Events: a subject, a line feed and a body.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| streams::fuzzing::event(input));
