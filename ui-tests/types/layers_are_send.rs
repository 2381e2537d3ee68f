//! A stage's worker owns its layers, so they move to another thread.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Counter(*const u8);

impl Layer<Tensor> for Counter {
    type Out = Tensor;
    fn forward(&self, x: Tensor, _: &Context) -> Tensor {
        x
    }
}

#[pipeline]
struct Model {
    #[device("cpu")]
    encode: Linear,
    #[device("cpu")]
    decode: Linear,
    count: Counter,
}

fn main() {}
