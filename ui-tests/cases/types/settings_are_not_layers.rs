//! A number, or another setting, is no layer: mark it with `#[not_a_layer]`.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    encode: Linear,
    dropout: f64,
}

fn main() {}
