//! In a model with devices, the first layer has one. Later layers continue on the device of the
//! layer before.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    encode: Linear,
    #[device("cuda:0")]
    decode: Linear,
}

fn main() {}
