//! Closures and functions come as `nn::func(..)`.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Tensor, pipeline};

#[pipeline]
struct Model {
    encode: Linear,
    relu: fn(&Tensor) -> Tensor,
}

fn main() {}
