//! A layer that another one is tied to has a value to lend.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Relu;

impl Layer<Tensor> for Relu {
    type Out = Tensor;
    fn run(&self, _: Tensor, _: &Context) -> Tensor {
        unreachable!()
    }
}

struct Head;

impl Layer<(Tensor, Tensor)> for Head {
    type Out = Tensor;
    fn run(&self, _: (Tensor, Tensor), _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline]
struct Model {
    #[lend(words = tied)]
    relu: Relu,
    body: Linear,
    #[read(words)]
    head: Head,
}

fn main() {}
