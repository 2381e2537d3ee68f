//! The error for a misspelt device suggests the likely one.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("gpu:0")]
    one: Linear,
    #[device("cuda:O")]
    two: Linear,
    #[device("CUDA:1")]
    three: Linear,
    #[device("cpu:0")]
    four: Linear,
}

fn main() {}
