//! What a block declares to read has the type of what is lent.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Scale;

impl Layer<(Tensor, i64)> for Scale {
    type Out = Tensor;
    fn run(&self, _: (Tensor, i64), _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline(read(size: i64))]
struct Block {
    #[read(size)]
    scale: Scale,
}

#[pipeline]
struct Model {
    #[lend(size = output)]
    encode: Linear,
    #[read(size)]
    near: Concat,
    #[read(size)]
    block: Block,
}

fn main() {}
