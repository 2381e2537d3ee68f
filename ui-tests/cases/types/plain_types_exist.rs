//! A plain field's type that does not exist is one error, too.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    #[device("cuda:1")]
    decode: Linear,
    #[not_a_layer]
    config: Missing,
}

fn main() {}
