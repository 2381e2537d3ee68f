//! The last layer returns the model's output.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Tensor, pipeline};

#[pipeline(output = (Tensor, Tensor))]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    #[device("cuda:1")]
    decode: Linear,
}

fn main() {}
