//! If any layer has a device, the first layer has one.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    encode: Linear,
    #[device("cuda:0")]
    decode: Linear,
}

fn main() {}
