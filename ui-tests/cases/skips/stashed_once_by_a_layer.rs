//! A layer stashes a skip once.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level = input, level = output)]
    one: Linear,
    #[pop(level)]
    two: Concat,
}

fn main() {}
