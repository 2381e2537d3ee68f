//! A value that crosses a stage boundary is `Flow`; inside a stage, any type is allowed.

use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Opaque;

struct Make;

impl Layer<Tensor> for Make {
    type Out = Opaque;
    fn run(&self, _: Tensor, _: &Context) -> Opaque {
        unreachable!()
    }
}

struct Take;

impl Layer<Opaque> for Take {
    type Out = Tensor;
    fn run(&self, _: Opaque, _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline]
struct Model {
    #[device("cuda:0")]
    make1: Make,
    take1: Take,
    make2: Make,
    #[device("cuda:1")]
    take2: Take,
}

fn main() {}
