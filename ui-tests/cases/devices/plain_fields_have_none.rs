//! A plain field has no device.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    encode: Linear,
    #[device("cpu")]
    #[not_a_layer]
    config: u8,
}

fn main() {}
