//! The user's own items with names that generated code, the prelude or the runtime uses.
#![deny(warnings)]
#![allow(dead_code, non_camel_case_types, unused_macros)]

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

mod std {}
mod core {}
mod pipe {}

struct Tensor;
struct Layer;
struct Stage0;
struct Result;
struct Option;
struct Vec;
struct Send;
struct Flow;
struct Context;
struct Pipeline;
struct Path;
struct Plan;
struct Debug;
type usize = u8;
type bool = u8;
type str = u8;

macro_rules! assert {
    () => {};
}

macro_rules! vec {
    () => {};
}

trait Forward {
    fn forward(&self) {}
    fn layer(&self) {}
    fn receive(&self) {}
    fn send(&self) {}
    fn stage(&self) {}
}

impl<T> Forward for T {}

/// A model with layers and plain fields of those types.
#[pipeline(chunks = 2)]
pub struct Model {
    #[device("cuda:0")]
    #[stash(a = output)]
    first: Linear,
    #[repeat]
    blocks: ::std::vec::Vec<Linear>,
    #[device("cuda:1")]
    #[pop(a)]
    merge: pipe_runtime::nn::Concat,
    #[devices("cuda:2", "cuda:3")]
    more: [Linear; 2],
    #[not_a_layer]
    plain: (Tensor, Layer, Stage0, Result, Option, Vec, Send, usize),
}

/// A block, in the same scope.
#[pipeline]
pub struct Block {
    #[repeat]
    blocks: ::std::vec::Vec<Linear>,
}

fn main() {
    let stages: ::core::primitive::usize = Model::STAGES;
    let _ = |vars: ModelVars| (vars.first(), vars.blocks(stages), vars.merge()).1.len();
    let _ = |vars: BlockVars<'_>| vars.blocks(stages).len();
}
