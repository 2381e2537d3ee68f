//! A weight is lent across stages and inside one.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Head;

impl Layer<(Tensor, Tensor)> for Head {
    type Out = Tensor;
    fn run(&self, _: (Tensor, Tensor), _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline]
struct Model {
    #[device("cpu")]
    #[lend(words = tied)]
    embed: Linear,
    #[read(words)]
    check: Head,
    #[device("cpu")]
    body: Linear,
    #[read(words)]
    head: Head,
}

fn main() {}
