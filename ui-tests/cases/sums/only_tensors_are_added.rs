//! All values of a sum are tensors.

use pipe_runtime::nn::Split;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Count;

impl Layer<Tensor> for Count {
    type Out = (Tensor, f32);

    fn run(&self, x: Tensor, _cx: &Context) -> (Tensor, f32) {
        (x, 1.)
    }
}

#[pipeline(sum(used: Tensor))]
struct Block {
    #[sum(used)]
    one: Split,
    #[sum(used)]
    two: Count,
}

fn main() {}
