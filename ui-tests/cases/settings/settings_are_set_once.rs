//! A setting is given once.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(chunks = 4, checkpoint = never, chunks = 8)]
struct Model {
    encode: Linear,
}

fn main() {}
