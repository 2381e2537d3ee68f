//! A layer adds one value to a sum.

use pipe_runtime::nn::Split;
use pipe_runtime::{Tensor, pipeline};

#[pipeline(sum(balance: Tensor))]
struct Block {
    #[sum(balance, balance)]
    one: Split,
}

fn main() {}
