//! Everything that tch does not offer: a C++ shim (`shim/`) and its safe wrapper. The only `unsafe` of the workspace.

mod autocast;
mod ffi;
mod graph;
mod malloc;
mod modes;
mod node;
mod profile;
mod random;

pub use autocast::autocast;
pub(crate) use graph::{Parameters, StageGraph, Sums};
pub use malloc::keep_freed_memory;
pub(crate) use modes::{EnteredModes, GradMode, Modes, grad_enabled, version};
pub(crate) use node::{Backward, attach};
pub(crate) use profile::{BackwardClock, Observation, Read, sequence_number, synchronize};
pub(crate) use random::{RandomStreams, draw_seed, restart_stream};

/// A failed call into libtorch; the message is libtorch's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TorchError(pub(crate) String);
