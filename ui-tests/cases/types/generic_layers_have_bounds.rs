//! A type parameter that is a layer has the bound `Layer`.

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
