//! A model with devices borrows nothing: its layers move to threads that may outlive what they
//! borrow.

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
