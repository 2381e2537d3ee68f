//! A layer's method on the variables does not hide one of theirs. In a block, which has no such
//! methods, it may.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda:0")]
    first: Linear,
    #[device("cuda:1")]
    save: Linear,
}

#[pipeline]
struct Block {
    save: Linear,
}

fn main() {}
