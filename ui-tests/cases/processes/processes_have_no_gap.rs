//! Processes count from 0 without a gap.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu", process = 0)]
    encode: Linear,
    #[device("cpu", process = 2)]
    decode: Linear,
}

fn main() {}
