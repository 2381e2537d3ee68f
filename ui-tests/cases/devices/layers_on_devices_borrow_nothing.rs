//! A model with devices borrows nothing: its threads may outlive what its layers borrow.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model<'a> {
    #[device("cpu")]
    encode: Linear,
    #[not_a_layer]
    name: &'a str,
}

fn main() {}
