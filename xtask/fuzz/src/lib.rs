//! What the targets share.

use std::alloc::System;

use cap::Cap;

/// The memory of Rust's code. libFuzzer sees what is allocated only under a sanitizer, so a target
/// sets a limit here: what goes beyond it ends the process, as a fault.
#[global_allocator]
pub static MEMORY: Cap<System> = Cap::new(System, usize::MAX);
