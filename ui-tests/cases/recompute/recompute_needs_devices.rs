//! A layer inside of a block is not recomputed alone.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Block {
    #[recompute]
    inner: Linear,
    outer: Linear,
}

fn main() {}
