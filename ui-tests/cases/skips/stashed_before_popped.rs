//! A skip is stashed before it is popped: layers run in the order of the fields.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[pop(level)]
    decode: Concat,
    #[stash(level = output)]
    encode: Linear,
}

fn main() {}
