//! A layer returns as many skips as it stashes.

use pipe_runtime::nn::Concat;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Make;

impl Layer<Tensor> for Make {
    type Out = (Tensor, Tensor, Tensor);
    fn run(&self, _: Tensor, _: &Context) -> (Tensor, Tensor, Tensor) {
        unreachable!()
    }
}

#[pipeline]
struct Model {
    #[stash(level)]
    make: Make,
    #[pop(level)]
    merge: Concat,
}

fn main() {}
