//! Any bytes of another process are read as a message, or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipe_fuzz::MEMORY;

fuzz_target!(init: MEMORY.set_limit(64 << 20).expect("less is in use"), |bytes: &[u8]| {
    pipe_runtime::fuzzing::message(bytes);
});
