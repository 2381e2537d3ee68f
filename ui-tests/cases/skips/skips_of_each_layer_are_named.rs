//! The skip of each layer is written with `[..]`.

use pipe_runtime::nn::{Concat, Split};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[repeat]
    #[stash(level[0])]
    downs: [Split; 4],
    #[repeat]
    #[pop(level[])]
    ups: [Concat; 4],
}

fn main() {}
