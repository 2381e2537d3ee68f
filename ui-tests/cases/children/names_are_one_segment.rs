//! A layer's name is one segment of a parameter path, so it has no `.`.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[layer(name = "down.0")]
    down: Linear,
}

fn main() {}
