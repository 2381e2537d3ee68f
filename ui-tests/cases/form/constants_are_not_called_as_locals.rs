//! A const parameter does not have the name of a field or of a local variable of generated code:
//! rustc would take the variable for the constant.

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
