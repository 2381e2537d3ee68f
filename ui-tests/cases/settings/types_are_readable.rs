//! `input` and `output` are types.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(input = 3)]
struct Model {
    encode: Linear,
}

fn main() {}
