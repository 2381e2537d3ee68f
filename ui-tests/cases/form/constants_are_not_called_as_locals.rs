//! A const parameter is not called as a field or a local: rustc would take the local for the
//! constant.

#![allow(non_upper_case_globals)]

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model<const x: usize, const blocks: usize> {
    #[repeat]
    blocks: [Linear; blocks],
    #[repeat]
    more: [Linear; x],
}

fn main() {}
