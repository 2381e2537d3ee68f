//! The first layer opens the first stage without a `#[stage]`.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    #[stage]
    encode: Linear,
}

fn main() {}
