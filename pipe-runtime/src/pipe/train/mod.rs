//! The training iteration around a step: optimizers and the loop.

mod optimizer;
mod optimizer_builder;

pub use optimizer::{Optimizer, Update};
pub use optimizer_builder::OptimizerBuilder;
