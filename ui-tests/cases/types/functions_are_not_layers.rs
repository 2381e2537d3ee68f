//! A closure or a function is not a layer: wrap it in `nn::func(..)`.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Tensor, pipeline};

#[pipeline]
struct Model {
    encode: Linear,
    relu: fn(&Tensor) -> Tensor,
}

fn main() {}
