//! A layer's name is not empty.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[layer(name = "")]
    down: Linear,
}

fn main() {}
