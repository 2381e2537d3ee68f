//! A mock of the runtime: enough types to type-check what `#[pipeline]` generates, with the bounds
//! and signatures of the real ones and without their implementations.
#![allow(dead_code, missing_docs, unused_variables)]
#![forbid(unsafe_code)]

#[path = "rt.rs"]
pub mod __rt;
mod movable;
pub mod nn;
mod with_skips;

pub use __rt::{Context, Flow, Layer};
pub use nn::Tensor;
pub use pipe_macros::pipeline;
