//! `#[stage]`, `#[repeat]` and `#[not_a_layer]` take no arguments.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    #[stage(2)]
    decode: Linear,
    #[not_a_layer = true]
    config: u8,
}

fn main() {}
