//! Of several accelerators, a device says which.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cuda")]
    encode: Linear,
}

fn main() {}
