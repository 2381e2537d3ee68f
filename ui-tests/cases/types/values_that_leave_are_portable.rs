//! A value that goes to a stage of another process is `Portable`. Within a process, `Flow` will do.

use std::sync::Arc;

use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Make;

impl Layer<Tensor> for Make {
    type Out = Arc<u8>;
    fn run(&self, _: Tensor, _: &Context) -> Arc<u8> {
        unreachable!()
    }
}

struct Take;

impl Layer<Arc<u8>> for Take {
    type Out = Tensor;
    fn run(&self, _: Arc<u8>, _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline]
struct Model {
    #[device("cpu", process = 0)]
    make1: Make,
    #[device("cpu", process = 0)]
    take1: Take,
    make2: Make,
    #[device("cpu", process = 1)]
    take2: Take,
}

fn main() {}
