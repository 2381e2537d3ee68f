//! Once there are devices, the first layer has one: later ones go on where it runs.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    encode: Linear,
    #[device("cuda:0")]
    decode: Linear,
}

fn main() {}
