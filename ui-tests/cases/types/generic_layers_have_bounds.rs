//! A layer that is a parameter of the struct says that it is one.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model<L: Send> {
    #[device("cuda:0")]
    encode: L,
    #[device("cuda:1")]
    decode: Linear,
}

fn main() {}
