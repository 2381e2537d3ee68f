//! The list of steps for all micro-batches fits into memory.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(chunks = 1000000000)]
struct Model {
    #[device("cuda:0")]
    first: Linear,
    #[device("cuda:1")]
    second: Linear,
}

fn main() {}
