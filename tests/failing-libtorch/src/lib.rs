//! Allocations and operators of libtorch that fail when a test says so, and libtorch's default
//! kind, which tch does not bind.
//!
//! Each process that is linked to this crate has them, on the CPU. What fails is libtorch's usual
//! error, at whatever place it happens: in an operator, in autograd, or in what connects them. The
//! memory that tensors have is counted.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use tch::{Device, Kind, Tensor};

// Used only for its link to libtorch.
use pipe_runtime as _;

/// Environment variable in which `failing.cpp` stores the path of its file.
const FILE: &str = "PIPE_FAILING_LIBTORCH";

/// The numbers of the file, as `failing.cpp` has them.
const ALLOCATIONS: u64 = 0;
const OPERATORS: u64 = 1;
const WATCHES_OPERATORS: u64 = 2;
const KILLS: u64 = 3;
const IN_USE: u64 = 4;
const DEFAULT_KIND: u64 = 5;

/// Allocations of CPU tensors.
pub mod allocations {
    /// Makes allocation `number` from now on fail, counted from 1. Later ones succeed. 0 makes none
    /// fail.
    pub fn fail_at(number: i64) {
        super::write(super::ALLOCATIONS, number);
    }

    /// The allocations that are left until one fails; 0 once it has failed.
    pub fn left() -> i64 {
        super::read(super::ALLOCATIONS)
    }
}

/// Calls of libtorch's operators, those that other operators make included: on this thread, and on
/// each that has its modes.
pub mod operators {
    /// Makes call `number` from now on fail, counted from 1. Later ones succeed. 0 makes none fail.
    pub fn fail_at(number: i64) {
        super::watch(number, false);
    }

    /// Makes call `number` from now on end the process, by SIGKILL.
    pub fn kill_at(number: i64) {
        super::watch(number, true);
    }

    /// The calls that are left until one fails; 0 once it has failed.
    pub fn left() -> i64 {
        super::read(super::OPERATORS)
    }
}

/// The blocks of memory that tensors have.
pub fn in_use() -> i64 {
    read(IN_USE)
}

/// Sets the kind that libtorch gives to numbers without another one, for example to the quotient of
/// two integers. The whole process has one.
pub fn set_default_kind(kind: Kind) {
    // The numbers of `c10::ScalarType`.
    let number = match kind {
        Kind::Float => 6,
        Kind::Double => 7,
        _ => panic!("{kind:?} is no default kind of these tests"),
    };
    write(DEFAULT_KIND, number);
    tell_this_thread();
}

fn watch(number: i64, kills: bool) {
    write(OPERATORS, 0);
    write(KILLS, kills.into());
    write(WATCHES_OPERATORS, (number > 0).into());
    tell_this_thread();
    write(OPERATORS, number);
}

/// Has this thread read what was written.
fn tell_this_thread() {
    // Each allocation of a tensor does.
    drop(Tensor::zeros([1], (Kind::Float, Device::Cpu)));
}

fn write(index: u64, number: i64) {
    file().write_all_at(&number.to_ne_bytes(), 8 * index).expect("the file can be written");
}

fn read(index: u64) -> i64 {
    let mut bytes = [0; 8];
    file().read_exact_at(&mut bytes, 8 * index).expect("the file can be read");
    i64::from_ne_bytes(bytes)
}

fn file() -> File {
    let path = std::env::var_os(FILE).expect("the allocator is installed");
    OpenOptions::new().read(true).write(true).open(path).expect("the file is there")
}
