//! A struct has one `#[pipeline]`, with all settings.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(chunks = 8)]
#[pipeline(checkpoint = never)]
struct Model {
    encode: Linear,
}

fn main() {}
