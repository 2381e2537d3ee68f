//! A skip has the type that the popping layer takes.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Take;

impl Layer<(Tensor, i64)> for Take {
    type Out = Tensor;
    fn run(&self, _: (Tensor, i64), _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline]
struct Model {
    #[device("cuda:0")]
    #[stash(level = input)]
    encode: Linear,
    #[device("cuda:1")]
    #[pop(level)]
    take: Take,
}

fn main() {}
