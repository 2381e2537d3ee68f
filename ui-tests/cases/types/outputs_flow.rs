//! The model's output is `Flow`, because it is joined from micro-batches.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Opaque;

struct Make;

impl Layer<Tensor> for Make {
    type Out = Opaque;
    fn run(&self, _: Tensor, _: &Context) -> Opaque {
        unreachable!()
    }
}

#[pipeline(output = Opaque)]
struct Model {
    #[device("cuda:0")]
    encode: Linear,
    #[device("cuda:1")]
    make: Make,
}

fn main() {}
