//! The training iteration around a step: optimizers, the loop, and checkpoints of everything.

mod checkpoints;
mod optimizer;
mod optimizer_builder;
mod scratch;
mod snapshot;
mod trainer;

pub use checkpoints::Checkpoints;
pub use optimizer::{Optimizer, Update};
pub use optimizer_builder::OptimizerBuilder;
pub use trainer::{IterationReport, Trainer};
