//! Settings are separated by commas.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(chunks = 4 checkpoint = never)]
struct Model {
    encode: Linear,
}

fn main() {}
