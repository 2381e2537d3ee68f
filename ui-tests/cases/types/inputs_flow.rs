//! The model's input is `Flow`, because it is split into micro-batches.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Opaque;

struct Take;

impl Layer<Opaque> for Take {
    type Out = Tensor;
    fn run(&self, _: Opaque, _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline(input = Opaque)]
struct Model {
    #[device("cuda:0")]
    take: Take,
    #[device("cuda:1")]
    decode: Linear,
}

fn main() {}
