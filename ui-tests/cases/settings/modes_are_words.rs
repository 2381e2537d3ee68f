//! The mode is a word, as all names are here.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(checkpoint = "never")]
struct Model {
    encode: Linear,
}

fn main() {}
