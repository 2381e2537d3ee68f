//! An alias hides a shared layer from the macro, but not from the type checker.

use std::sync::Arc;

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

type Shared = Arc<Linear>;

#[pipeline]
struct Model {
    encode: Linear,
    decode: Shared,
}

fn main() {}
