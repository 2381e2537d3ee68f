//! A layer takes the output of the layer before it.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Embed;

impl Layer<i64> for Embed {
    type Out = Tensor;
    fn run(&self, _: i64, _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    #[device("cuda:1")]
    embed: Embed,
    decode: Linear,
}

fn main() {}
