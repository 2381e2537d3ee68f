//! A layer takes what it reads in the order in which it reads it.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Context, Layer, Tensor, pipeline};

struct Attend;

impl Layer<(Tensor, Tensor, i64)> for Attend {
    type Out = Tensor;
    fn run(&self, _: (Tensor, Tensor, i64), _: &Context) -> Tensor {
        unreachable!()
    }
}

struct First;

impl Layer<(Tensor, i64)> for First {
    type Out = Tensor;
    fn run(&self, _: (Tensor, i64), _: &Context) -> Tensor {
        unreachable!()
    }
}

#[pipeline(input = (Tensor, i64))]
struct Model {
    #[lend(length = input.1)]
    first: First,
    #[lend(memory = output)]
    encode: Linear,
    #[read(memory, length)]
    attend: Attend,
    #[read(length, memory)]
    again: Attend,
}

fn main() {}
