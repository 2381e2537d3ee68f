//! In a model with devices, a type parameter that is a layer has the bound `Send`.

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
