//! A pop that misspells the name of a stash is one mistake, not two.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level1 = output)]
    one: Linear,
    two: Linear,
    #[pop(levle1)]
    three: Concat,
}

fn main() {}
