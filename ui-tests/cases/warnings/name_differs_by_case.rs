//! A name that differs from the field's only by case is probably a slip, and ends up in parameter
//! files.
#![deny(deprecated)]

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[layer(name = "Encode")]
    encode: Linear,
}

fn main() {}
