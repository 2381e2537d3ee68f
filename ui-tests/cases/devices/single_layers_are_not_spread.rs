//! A single layer runs on one device.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[devices("cuda:0", "cuda:1")]
    head: Linear,
}

fn main() {}
