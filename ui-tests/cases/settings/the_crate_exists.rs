//! `crate` names a crate or module that exists.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(crate = nowhere)]
struct Model {
    encode: Linear,
}

fn main() {}
