//! A layer that stashes and adds returns its output, and each value in the written order.

use pipe_runtime::nn::{Concat, Split};
use pipe_runtime::{Tensor, pipeline};

#[pipeline(sum(balance: Tensor))]
struct Block {
    #[stash(level)]
    #[sum(balance)]
    one: Split,
    #[pop(level)]
    two: Concat,
}

fn main() {}
