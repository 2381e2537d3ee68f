//! With a single micro-batch, `except_last` checkpoints nothing.
#![deny(deprecated)]

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(chunks = 1, checkpoint = except_last)]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    #[device("cuda:1")]
    decode: Linear,
}

fn main() {}
