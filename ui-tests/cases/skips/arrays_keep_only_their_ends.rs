//! Repeated layers are one type, so no single one of them can return more.

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
