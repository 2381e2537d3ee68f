//! A setting that cannot be read is reported with the way to write it; the others are still read.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(chunks, checkpoint = never always, input = , output(Tensor), allow = "balance")]
struct Model {
    encode: Linear,
}

fn main() {}
