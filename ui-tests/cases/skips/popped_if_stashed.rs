//! What is kept is wanted by a layer.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(left = output)]
    one: Linear,
    two: Linear,
}

fn main() {}
