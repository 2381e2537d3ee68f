//! A layer that borrows can run unpipelined, but not on threads that may outlive it.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Borrowed<'a>(&'a Tensor);

impl Layer<Tensor> for Borrowed<'_> {
    type Out = Tensor;
    fn run(&self, x: Tensor, _: &Context) -> Tensor {
        x
    }
}

#[pipeline]
struct Model<L: Layer<Tensor, Out = Tensor> + Send> {
    #[device("cuda:0")]
    encode: L,
    #[device("cuda:1")]
    decode: Linear,
}

fn run(scale: &Tensor, vars: &ModelVars) {
    let model = Model { encode: Borrowed(scale), decode: Linear };
    let _ = model.unpipelined().forward(Tensor);
    let _ = model.pipe(vars).build();
}

fn main() {}
