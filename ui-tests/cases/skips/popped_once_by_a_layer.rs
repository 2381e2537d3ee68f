//! A layer is handed a value once.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level = output)]
    one: Linear,
    #[pop(level, level)]
    two: Concat,
}

fn main() {}
