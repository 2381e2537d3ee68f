//! The first layer takes what the model takes.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Tensor, pipeline};

#[pipeline(input = (Tensor, Tensor))]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    #[device("cuda:1")]
    decode: Linear,
}

fn main() {}
