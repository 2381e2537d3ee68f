//! A layer that adds returns its output, and a tensor for each sum.

use pipe_runtime::nn::{Linear, Split};
use pipe_runtime::{Tensor, pipeline};

#[pipeline(sum(balance: Tensor, used: Tensor))]
struct Block {
    #[sum(balance)]
    one: Linear,
    #[sum(balance, used)]
    two: Split,
}

fn main() {}
