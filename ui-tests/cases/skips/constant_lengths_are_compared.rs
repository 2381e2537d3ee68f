//! Lengths that are constants are compared, too.

use pipe_runtime::nn::{Concat, Split};
use pipe_runtime::pipeline;

const DEPTH: usize = 4;

#[pipeline]
struct Model {
    #[device("cpu")]
    #[repeat]
    #[stash(level[..])]
    downs: [Split; DEPTH],
    #[devices("cpu", "cpu")]
    #[pop(level[..])]
    ups: [Concat; 3],
}

#[pipeline]
struct Block {
    #[repeat]
    #[stash(level[..])]
    downs: [Split; Self::DEPTH],
    #[repeat]
    #[pop(level[..])]
    ups: [Concat; Self::DEPTH - 1],
}

impl Block {
    const DEPTH: usize = 2;
}

fn main() {}
