//! A checkpoint mode is written without quotes.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(checkpoint = "never")]
struct Model {
    encode: Linear,
}

fn main() {}
