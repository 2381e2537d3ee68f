//! A zoo of layers, each with its twin in plain tch.
//!
//! The unpipelined run shares splitting, values and random numbers with the pipeline, so it cannot
//! show what is wrong with them. A twin shares nothing but formulas: it runs on plain variables
//! with the same values, and its state and its autograd are plain tch's.

pub mod creature;
pub mod formulas;
mod layer;
pub mod plain;
pub mod probe;
pub mod run;
pub mod stacks;
pub mod train;

pub use creature::Creature;
pub use plain::Twin;
pub use probe::{Fault, Passes, Probe, Probed};
pub use run::{Batch, Call, Comparison, Nearness, Order, Outcome, Plain, Watched};
pub use stacks::{LayerSpec, Passed, Stack1, Stack2, Stack3, Stack4, ZooModel};
