//! A layer's type that does not exist is one error.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    missing: Missing,
    #[device("cuda:1")]
    decode: Linear,
}

fn main() {}
