//! A skip skips at least the way between two layers.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level)]
    #[pop(level)]
    one: Linear,
}

fn main() {}
