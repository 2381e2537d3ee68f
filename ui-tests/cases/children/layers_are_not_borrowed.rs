//! A model owns its layers; it does not borrow them.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    head: &'static Linear,
}

fn main() {}
