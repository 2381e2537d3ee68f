//! A last layer that gives several values needs `output = ..`: without it, the output is a tensor.

use pipe_runtime::nn::{Linear, Split};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    encode: Linear,
    #[device("cpu")]
    heads: Split,
}

fn main() {}
