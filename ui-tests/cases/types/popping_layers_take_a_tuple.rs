//! A layer that pops takes `(input, skip)`.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda:0")]
    #[stash(level = input)]
    encode: Linear,
    #[device("cuda:1")]
    #[pop(level)]
    decode: Linear,
}

fn main() {}
