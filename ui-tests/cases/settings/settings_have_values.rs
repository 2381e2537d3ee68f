//! A setting has a value.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(checkpoint, chunks =)]
struct Model {
    encode: Linear,
}

fn main() {}
