//! A name that is stashed is popped.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(left = output)]
    one: Linear,
    two: Linear,
}

fn main() {}
