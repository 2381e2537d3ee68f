//! A layer of a model with devices does not hide a method of its variables, such as `save`.

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
