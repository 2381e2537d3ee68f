//! A value says what it is for.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(8, checkpoint = never)]
struct Model {
    encode: Linear,
}

fn main() {}
