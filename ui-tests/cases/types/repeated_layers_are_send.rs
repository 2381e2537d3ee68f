//! Repeated layers are `Send`, because they move to their stages' threads.

use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Counter(*const u8);

impl Layer<Tensor> for Counter {
    type Out = Tensor;
    fn run(&self, _: Tensor, _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline]
struct Model {
    #[devices("cuda:0", "cuda:1")]
    counts: [Counter; 4],
}

fn main() {}
