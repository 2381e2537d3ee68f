//! The last layer gives what the model returns.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Tensor, pipeline};

#[pipeline(output = (Tensor, Tensor))]
struct Model {
    #[device("cpu")]
    encode: Linear,
    decode: Linear,
}

fn main() {}
