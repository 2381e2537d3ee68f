//! Two accelerators made of the CPU, for the tests of what only accelerators need: streams, events,
//! and memory that several streams use.
//!
//! They are in each process that is linked to this crate, as `cuda:0` and `cuda:1`. Tensors, models
//! and pipelines then run there as on real ones; results are those of the CPU. Each use of memory
//! on a stream, each event and each wait goes into a log, and [`violations`] finds what the order
//! of events does not cover: on a real accelerator, the two uses could overlap.
//!
//! A process whose libtorch has CUDA of its own cannot have the mock as well: [`is_installed`]
//! tells.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod device;
mod order;

// For its link to libtorch.
use pipe_runtime as _;

pub use device::{Entry, Kind, is_installed, log};
pub use order::violations;
