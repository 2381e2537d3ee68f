//! A function or closure is a layer only in `nn::func(..)`.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Tensor, pipeline};

#[pipeline]
struct Model {
    encode: Linear,
    relu: fn(&Tensor) -> Tensor,
}

fn main() {}
