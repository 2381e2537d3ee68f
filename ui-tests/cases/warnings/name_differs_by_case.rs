//! A name that is the field's but for its case is a slip, and parameter files know it.
#![deny(deprecated)]

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[layer(name = "Encode")]
    encode: Linear,
}

fn main() {}
