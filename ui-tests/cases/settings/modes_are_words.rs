//! A checkpoint mode is a word without quotes, as other names are.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(checkpoint = "never")]
struct Model {
    encode: Linear,
}

fn main() {}
