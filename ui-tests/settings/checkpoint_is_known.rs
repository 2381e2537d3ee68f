//! The mode is one of three.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(checkpoint = sometimes)]
struct Model {
    encode: Linear,
}

#[pipeline(checkpoint = "never")]
struct Quoted {
    encode: Linear,
}

fn main() {}
