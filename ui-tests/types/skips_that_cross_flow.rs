//! So is a skip that crosses one.

use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Opaque;

struct Make;

impl Layer<Tensor> for Make {
    type Out = (Tensor, Opaque);
    fn forward(&self, x: Tensor, _: &Context) -> (Tensor, Opaque) {
        (x, Opaque)
    }
}

struct Take;

impl Layer<(Tensor, Opaque)> for Take {
    type Out = Tensor;
    fn forward(&self, (x, _): (Tensor, Opaque), _: &Context) -> Tensor {
        x
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
