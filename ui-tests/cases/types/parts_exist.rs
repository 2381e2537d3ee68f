//! A part that is stashed exists in the value.

use pipe_runtime::nn::{Concat, Linear, Reader};
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Take;

impl Layer<(Tensor, Vec<Tensor>)> for Take {
    type Out = Tensor;
    fn run(&self, _: (Tensor, Vec<Tensor>), _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline]
struct Model {
    #[stash(noise = input.1)]
    encode: Linear,
    #[pop(noise)]
    join: Concat,
}

#[pipeline(input = (Tensor, Vec<Tensor>))]
struct Other {
    #[stash(noise = input.2, first = input.1.0)]
    encode: Take,
    #[pop(noise, first)]
    join: Reader,
}

fn main() {}
