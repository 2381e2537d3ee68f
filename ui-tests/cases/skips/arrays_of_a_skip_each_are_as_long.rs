//! As many layers pop a skip as stash one.

use pipe_runtime::nn::{Concat, Split};
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    #[device("cpu")]
    #[repeat]
    #[stash(level[..])]
    downs: [Split; 4],
    #[devices("cpu", "cpu")]
    #[pop(level[..])]
    ups: [Concat; 3],
}

fn main() {}
