//! A layer's name should not differ from its field's by case alone.
#![deny(deprecated)]

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[layer(name = "Encode")]
    encode: Linear,
}

fn main() {}
