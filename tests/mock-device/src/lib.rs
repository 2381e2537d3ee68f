//! Two mock accelerators that run on the CPU. They test what only accelerators have: device
//! streams, events, and memory that several streams use.
//!
//! Each process that is linked to this crate has them as `cuda:0` and `cuda:1`. Tensors, models and
//! pipelines run there as on real accelerators, with the CPU's results. Each use of memory on a
//! stream, each event and each wait goes into a log. [`violations`] finds uses of the same memory
//! that no event puts in order, which could overlap on a real accelerator.
//!
//! A process whose libtorch itself has CUDA cannot have the mock. [`is_installed`] tells whether it
//! does.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod device;
mod order;
mod values;

// Used only for its link to libtorch.
use pipe_runtime as _;

/// The path of a fake of NCCL for these devices, which checks NCCL's rules. `PIPE_NCCL` takes it.
pub const FAKE_NCCL: &str = env!("FAKE_NCCL");

pub use device::{Entry, Kind, devices, is_installed, is_skipped, log};
pub use order::violations;
pub use values::{draw, named};
