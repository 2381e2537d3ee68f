//! The method for a layer's path must not hide a method of the variables. In a block, whose
//! variables have no such methods, any name is allowed.

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
