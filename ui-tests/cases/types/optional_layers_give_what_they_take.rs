//! A layer that may be absent gives what it takes, because without it the input goes on.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    encode: Linear,
    drop: Option<Concat>,
}

fn main() {}
