//! A layer that may be absent returns the type that it takes: without it, its input goes on.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    encode: Linear,
    drop: Option<Concat>,
}

fn main() {}
