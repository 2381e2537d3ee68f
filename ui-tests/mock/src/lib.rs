//! The types of the runtime without a runtime: enough to type-check what `#[pipeline]` generates,
//! with the bounds and signatures of the real ones, and empty bodies.
#![allow(dead_code, missing_docs, unused_variables, clippy::missing_errors_doc)]
#![forbid(unsafe_code)]

#[path = "rt.rs"]
pub mod __rt;
mod movable;
pub mod nn;
mod parts;
mod reading;
mod sums;
mod with_skips;

pub use __rt::{Context, Flow, Layer, Mean, Sum};
pub use nn::Tensor;
pub use pipe_macros::pipeline;
