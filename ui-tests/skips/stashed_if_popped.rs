//! What a layer pops was kept.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    one: Linear,
    #[pop(level)]
    two: Concat,
}

#[pipeline]
struct Misspelt {
    #[stash(level1 = output)]
    one: Linear,
    two: Linear,
    #[pop(levle1)]
    three: Concat,
}

#[pipeline]
struct PoppedAlready {
    #[stash(level1 = output)]
    one: Linear,
    #[pop(level1)]
    two: Concat,
    #[pop(level2)]
    three: Concat,
}

fn main() {}
