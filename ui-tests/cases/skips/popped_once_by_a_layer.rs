//! A layer pops a skip once.

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
