//! The error for a misspelt pop suggests the name of an earlier stash.

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
