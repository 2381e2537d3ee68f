//! Repeated layers have one type, so no single one of them can return or lend a value of its own.

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
