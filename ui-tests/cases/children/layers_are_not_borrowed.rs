//! A model owns its layers, so a layer is not a reference.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    head: &'static Linear,
}

fn main() {}
