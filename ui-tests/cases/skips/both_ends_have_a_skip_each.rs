//! What each layer of an array stashes, each layer of another one pops.

use pipe_runtime::nn::{Concat, Linear, Split};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[repeat]
    #[stash(level[..])]
    downs: [Split; 4],
    #[pop(level)]
    up: Concat,
    #[stash(start = output)]
    middle: Linear,
    #[repeat]
    #[pop(start[..])]
    ups: [Concat; 4],
}

fn main() {}
