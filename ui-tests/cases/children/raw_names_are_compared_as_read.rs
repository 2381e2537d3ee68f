//! A raw name counts without its `r#`, in parameter paths too.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    r#type: Linear,
    #[layer(name = "type")]
    kind: Linear,
}

fn main() {}
