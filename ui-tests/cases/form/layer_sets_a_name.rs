//! `#[layer(..)]` sets `name` and nothing else.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[layer(nmae = "first")]
    encode: Linear,
}

fn main() {}
