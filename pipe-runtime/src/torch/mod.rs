//! Everything that tch does not offer: a C++ shim (`shim/`) and its safe wrapper. This is the only
//! `unsafe` code of this crate.

#![allow(unsafe_code)]

mod autocast;
mod bytes;
mod cheap;
mod counter;
mod cuda;
mod elsewhere;
mod ffi;
mod graph;
mod malloc;
mod memory;
mod message;
mod meter;
mod modes;
mod node;
mod offload;
mod optimizer;
mod profile;
mod random;
mod scalar;
mod span;
mod state;
mod stream;
mod transfer;

pub(crate) use autocast::Autocast;
pub(crate) use bytes::{is_flat_on_cpu, size_in_bytes, with_bytes, with_bytes_mut};
pub(crate) use cheap::SavingPass;
pub(crate) use counter::Counter;
pub(crate) use cuda::cuda_fault;
pub(crate) use elsewhere::{ELSEWHERE, is_elsewhere, is_same, make_elsewhere};
pub(crate) use graph::{Parameters, StageGraph, Sums, engine_is_choosy};
pub use malloc::keep_freed_memory;
pub(crate) use memory::{duplicate, memory, reset_peaks};
pub(crate) use message::{caught, panic_message, without_stack};
pub(crate) use meter::{ByHolder, Holder, Meter, MeteredStep, Metering};
pub(crate) use modes::{EnteredModes, GradMode, Modes, grad_enabled, memory_of, version};
pub(crate) use node::{Backward, attach};
pub use offload::Offload;
pub(crate) use offload::{OffloadStreams, Offloaded};
pub(crate) use optimizer::{FusedKind, FusedRule, GradientState, Slice, Slot, Slots, prepare_gradient};
pub(crate) use profile::{BackwardClock, Kept, Observation, Peaks, Read, sequence_number, synchronize};
pub(crate) use random::{Draw, LayerRng, random_state, restart_rng, set_random_state};
pub(crate) use scalar::{divide, full_like, times};
pub(crate) use span::{Layout, ReceivedSpan, SentSpan, Unchanged, kind_from_number, number_of_kind};
pub(crate) use state::{Change, Variable, Variables, Watch, digest, drop_gradient, is_finite};
pub(crate) use stream::{Event, OnStream, Stream, StreamHandle};
pub(crate) use transfer::{CopyStreams, compact, transfer};

/// A failed call into libtorch, with libtorch's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TorchError(pub(crate) String);
