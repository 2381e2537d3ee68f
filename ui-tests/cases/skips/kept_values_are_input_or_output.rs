//! `#[stash(name = ..)]` keeps `input`, `output` or `tied`.

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level = both)]
    encode: Linear,
    #[pop(level)]
    merge: Concat,
}

fn main() {}
