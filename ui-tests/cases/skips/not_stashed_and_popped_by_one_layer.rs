//! A skip leads from one layer to a later one, so no layer both stashes and pops it.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level)]
    #[pop(level)]
    one: Linear,
}

fn main() {}
