//! A const parameter is not named like a field or a generated local, which would refer to it.

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
