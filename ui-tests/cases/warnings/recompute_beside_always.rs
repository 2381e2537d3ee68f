//! Whole stages that are recomputed need no marks.
#![deny(deprecated)]

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(checkpoint = always)]
struct Model {
    #[device("cuda:0")]
    #[recompute]
    encode: Linear,
    #[device("cuda:1")]
    decode: Linear,
}

fn main() {}
