//! The name is a string: it need not be a word of Rust.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[layer(name = first)]
    encode: Linear,
}

fn main() {}
