//! A layer is `Send`, because it moves to its stage's thread.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Counter(*const u8);

impl Layer<Tensor> for Counter {
    type Out = Tensor;
    fn run(&self, _: Tensor, _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    #[device("cuda:1")]
    decode: Linear,
    count: Counter,
}

fn main() {}
