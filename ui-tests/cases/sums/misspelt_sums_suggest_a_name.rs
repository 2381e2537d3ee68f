//! A layer adds to a sum by its name.

use pipe_runtime::nn::Split;
use pipe_runtime::{Tensor, pipeline};

#[pipeline(sum(balance: Tensor))]
struct Block {
    #[sum(balance)]
    one: Split,
    #[sum(balence)]
    two: Split,
}

fn main() {}
