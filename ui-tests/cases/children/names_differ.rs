//! Two layers have different names, or one would load the other's parameters.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    down: Linear,
    #[layer(name = "down")]
    up: Linear,
}

fn main() {}
