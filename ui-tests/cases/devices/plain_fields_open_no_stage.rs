//! A plain field does not open a stage.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    encode: Linear,
    #[not_a_layer]
    #[stage]
    config: u8,
    decode: Linear,
}

fn main() {}
