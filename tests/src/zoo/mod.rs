//! A zoo of layers, each with its twin in plain tch.
//!
//! The unpipelined run shares splitting, values and random numbers with the pipeline, so it cannot
//! show a mistake in them. A twin shares only formulas: it runs on plain variables with the same
//! values, and its state and its autograd are plain tch's.

pub mod comparison;
pub mod creature;
pub mod formulas;
mod layer;
pub mod plain;
pub mod probe;
pub mod routed;
pub mod run;
pub mod stacks;
pub mod train;

pub use comparison::{Comparison, Nearness, same_bits};
pub use creature::Creature;
pub use plain::Twin;
pub use probe::{Fault, How, ON_PURPOSE, Passes, Probe, Probed};
pub use routed::{Routed2, Routed3, Routed4};
pub use run::{Batch, Call, Mode, Order, Outcome, Plain, Watched};
pub use stacks::{
    LayerSpec, Passed, Recomputed1, Recomputed2, Recomputed4, Stack1, Stack2, Stack3, Stack4, Watchable, ZooModel,
};
