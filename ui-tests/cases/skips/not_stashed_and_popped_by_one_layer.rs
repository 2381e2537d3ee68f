//! A skip is stashed and popped by different layers.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level)]
    #[pop(level)]
    one: Linear,
}

fn main() {}
