//! `chunks` is a literal, so that it can be checked at compile time.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

const CHUNKS: usize = 8;

#[pipeline(chunks = CHUNKS)]
struct Model {
    encode: Linear,
}

fn main() {}
