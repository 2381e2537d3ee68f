//! Repeated layers have one type, so none of them can return a skip or lend a value.

use pipe_runtime::nn::{Concat, Split};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[repeat]
    #[stash(level)]
    blocks: [Split; 4],
    #[pop(level)]
    merge: Concat,
}

fn main() {}
