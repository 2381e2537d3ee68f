//! `checkpoint` is one of the three modes.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(checkpoint = sometimes)]
struct Unknown {
    encode: Linear,
}

#[pipeline(checkpoint = expect_last)]
struct Misspelt {
    encode: Linear,
}

fn main() {}
