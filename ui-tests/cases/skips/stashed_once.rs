//! A skip is stashed by one layer.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level = output)]
    one: Linear,
    #[stash(level = output)]
    two: Linear,
    #[pop(level)]
    three: Concat,
}

fn main() {}
