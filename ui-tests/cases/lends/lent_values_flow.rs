//! A value that goes to another stage is `Flow`.

use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Opaque(*const u8);

struct Make;

impl Layer<Tensor> for Make {
    type Out = (Tensor, Opaque);
    fn run(&self, _: Tensor, _: &Context) -> (Tensor, Opaque) {
        unreachable!()
    }
}

struct Use;

impl Layer<((Tensor, Opaque), Opaque)> for Use {
    type Out = (Tensor, Opaque);
    fn run(&self, _: ((Tensor, Opaque), Opaque), _: &Context) -> (Tensor, Opaque) {
        unreachable!()
    }
}

struct First;

impl Layer<(Tensor, Opaque)> for First {
    type Out = Tensor;
    fn run(&self, _: (Tensor, Opaque), _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline]
struct Model {
    #[lend(opaque = output.1)]
    make: Make,
    #[read(opaque)]
    one: Use,
    #[read(opaque)]
    two: Use,
    first: First,
}

fn main() {}
