//! All warnings about a struct are reported, each at its place.
#![deny(deprecated)]

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(chunks = 1, checkpoint = except_last)]
struct Model {
    #[device("cuda:0")]
    #[layer(name = "ENCODE")]
    encode: Linear,
    #[layer(name = "Decode")]
    decode: Linear,
}

fn main() {}
