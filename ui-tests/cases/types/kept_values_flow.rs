//! A stashed input or output is `Flow`, because keeping it takes a second handle.

use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Opaque;

struct Make;

impl Layer<Tensor> for Make {
    type Out = Opaque;
    fn run(&self, _: Tensor, _: &Context) -> Opaque {
        unreachable!()
    }
}

struct Pass;

impl Layer<Opaque> for Pass {
    type Out = Tensor;
    fn run(&self, _: Opaque, _: &Context) -> Tensor {
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
    #[stash(note = output)]
    make: Make,
    pass: Pass,
    #[pop(note)]
    take: Take,
}

fn main() {}
