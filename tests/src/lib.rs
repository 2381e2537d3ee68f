//! Code that the tests share: the comparison of a pipelined run with the unpipelined run, and
//! layers to build models from.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod again;
pub mod compare;
#[cfg(doctest)]
pub mod impossible;
pub mod layers;
pub mod mirrored;
pub mod torture;
pub mod way;
pub mod zoo;

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the lock for tests that seed libtorch's default generator or look at the process's
/// threads, which all tests of the process share. Also sets one intra-op thread, because with more,
/// sums differ from run to run.
pub fn serial() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(1);
    guard
}

/// Says that the test which runs is skipped, and why. `cargo xtask test` counts it as skipped, by
/// this line: what a test prints by `println!` is not shown if it passes.
///
/// # Panics
///
/// Panics if there is no standard output.
pub fn skip(reason: &str) {
    io::stdout().write_all(format!("skipped: {reason}\n").as_bytes()).expect("there is a standard output");
}

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The examples of the book's chapter on the language.
#[cfg(doctest)]
#[doc = include_str!("../../docs/language.md")]
pub struct Language;

/// The example of the book's page on training.
#[cfg(doctest)]
#[doc = include_str!("../../docs/training.md")]
pub struct Training;

/// The examples of the book's guides.
#[cfg(doctest)]
pub mod guides {
    /// The guide to custom schedules.
    #[doc = include_str!("../../docs/guides/custom-schedule.md")]
    pub struct CustomSchedule;

    /// The guide for users of torchgpipe.
    #[doc = include_str!("../../docs/guides/from-torchgpipe.md")]
    pub struct FromTorchgpipe;

    /// The guide for users of torch.distributed.pipelining.
    #[doc = include_str!("../../docs/guides/from-pipelining.md")]
    pub struct FromPipelining;

    /// The page on troubleshooting.
    #[doc = include_str!("../../docs/troubleshooting.md")]
    pub struct Troubleshooting;
}
