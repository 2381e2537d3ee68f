//! Each layer that does not fit is one error.

use pipe_runtime::nn::{Concat, Linear};
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
    make: Make,
    #[device("cuda:1")]
    take: Take,
    wrong: Concat,
    #[device("cuda:0")]
    #[stash(level)]
    stash: Linear,
    #[pop(level)]
    merge: Concat,
}

fn main() {}
