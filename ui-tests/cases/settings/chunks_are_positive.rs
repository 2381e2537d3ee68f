//! `chunks` is 1 or more.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(chunks = 0)]
struct Zero {
    encode: Linear,
}

#[pipeline(chunks = -1)]
struct Negative {
    encode: Linear,
}

fn main() {}
