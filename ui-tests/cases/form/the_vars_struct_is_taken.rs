//! Another type does not have the name of the generated `..Vars` struct.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    encode: Linear,
}

struct ModelVars;

fn main() {}
