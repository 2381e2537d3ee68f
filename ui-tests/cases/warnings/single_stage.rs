//! A pipeline with one stage overlaps nothing.
#![deny(deprecated)]

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    #[device("cuda:0")]
    decode: Linear,
}

fn main() {}
