//! A layer takes its skips in the order in which it pops them.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Take;

impl Layer<(Tensor, Tensor, i64)> for Take {
    type Out = Tensor;
    fn run(&self, _: (Tensor, Tensor, i64), _: &Context) -> Tensor {
        unreachable!()
    }
}

struct Make;

impl Layer<Tensor> for Make {
    type Out = (Tensor, i64);
    fn run(&self, _: Tensor, _: &Context) -> (Tensor, i64) {
        unreachable!()
    }
}

#[pipeline]
struct Model {
    #[stash(level = output)]
    encode: Linear,
    #[stash(count)]
    make: Make,
    #[pop(count, level)]
    take: Take,
}

fn main() {}
