//! Memory of CPU tensors that fails when a test says so.
//!
//! Each process that is linked to this crate has it. An allocation that fails is libtorch's usual
//! error, at whatever place it happens: in an operator, in autograd, or in what connects them.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

// Used only for its link to libtorch.
use pipe_runtime as _;

/// Environment variable in which `memory.cpp` stores the path of its file.
const FILE: &str = "PIPE_FAILING_MEMORY";

/// Makes the allocation number `number` from now on fail, counted from 1. Later ones succeed.
/// 0 makes none fail.
///
/// # Panics
///
/// Panics if the file with the number cannot be written.
pub fn fail_at(number: i64) {
    let file = OpenOptions::new().write(true).open(path()).expect("the file is there");
    file.write_all_at(&number.to_ne_bytes(), 0).expect("the file can be written");
}

/// The allocations that are left until one fails; 0 once it has failed.
///
/// # Panics
///
/// Panics if the file with the number cannot be read.
pub fn left() -> i64 {
    let number = std::fs::read(path()).expect("the file can be read");
    i64::from_ne_bytes(number.try_into().expect("the file has one number"))
}

fn path() -> std::ffi::OsString {
    std::env::var_os(FILE).expect("the allocator is installed")
}
