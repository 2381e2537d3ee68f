//! A setting has a value, the last one too.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(checkpoint, chunks =)]
struct Model {
    encode: Linear,
}

fn main() {}
