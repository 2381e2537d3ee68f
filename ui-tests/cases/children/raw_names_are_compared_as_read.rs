//! A raw name is compared without its `r#`, which is not in parameter paths either.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    r#type: Linear,
    #[layer(name = "type")]
    kind: Linear,
}

fn main() {}
