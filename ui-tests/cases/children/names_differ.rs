//! No two layers have the same name: one would load the parameters of the other.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    down: Linear,
    #[layer(name = "down")]
    up: Linear,
}

fn main() {}
