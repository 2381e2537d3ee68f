//! A layer has an input and an output to keep.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level = both)]
    encode: Linear,
    #[pop(level)]
    merge: Concat,
}

fn main() {}
