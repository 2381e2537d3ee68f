//! A stash keeps the layer's input, its output, or what it lends.

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
