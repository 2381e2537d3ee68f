//! A layer names each sum that it adds to.

use pipe_runtime::nn::Split;
use pipe_runtime::{Tensor, pipeline};

#[pipeline(sum(balance: Tensor))]
struct Block {
    #[sum(balance)]
    one: Split,
    #[sum]
    two: Split,
}

fn main() {}
