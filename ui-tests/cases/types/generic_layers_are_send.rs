//! A layer that is a parameter of the struct says that it can move, if there are devices.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Layer, Tensor, pipeline};

#[pipeline]
struct Model<L: Layer<Tensor, Out = Tensor>> {
    #[device("cuda:0")]
    encode: L,
    #[device("cuda:1")]
    decode: Linear,
}

fn main() {}
