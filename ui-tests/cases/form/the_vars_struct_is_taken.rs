//! Another type cannot have the name of the generated one.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    encode: Linear,
}

struct ModelVars;

fn main() {}
