//! All mistakes in the devices are reported, in source order.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    encode: Linear,
    #[device("gpu:0")]
    one: Linear,
    #[devices("cuda:0", "cuda:1")]
    two: Linear,
    #[devices("cuda" = 0, "cuda:1" = 3)]
    three: [Linear; 4],
    #[device("cpu")]
    #[not_a_layer]
    four: u8,
    #[device(cpu)]
    five: Linear,
}

fn main() {}
