//! A layer's name is a string, because it need not be an identifier.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[layer(name = first)]
    encode: Linear,
}

fn main() {}
