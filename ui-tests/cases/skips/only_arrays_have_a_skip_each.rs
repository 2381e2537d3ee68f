//! A skip of each layer is one of an array.

use pipe_runtime::nn::{Concat, Split};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[stash(level[..])]
    down: Split,
    #[pop(level[..])]
    up: Concat,
}

fn main() {}
