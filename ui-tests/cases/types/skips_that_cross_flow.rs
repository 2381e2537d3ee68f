//! A skip that crosses a stage boundary is `Flow`.

use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Opaque;

struct Make;

impl Layer<Tensor> for Make {
    type Out = (Tensor, Opaque);
    fn run(&self, _: Tensor, _: &Context) -> (Tensor, Opaque) {
        unreachable!()
    }
}

struct Take;

impl Layer<(Tensor, Opaque)> for Take {
    type Out = Tensor;
    fn run(&self, _: (Tensor, Opaque), _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline]
struct Model {
    #[device("cuda:0")]
    #[stash(note)]
    make: Make,
    #[device("cuda:1")]
    #[pop(note)]
    take: Take,
}

fn main() {}
