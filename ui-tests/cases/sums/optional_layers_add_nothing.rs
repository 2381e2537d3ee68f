//! A layer that may be absent adds nothing: absent, it is the identity.

use pipe_runtime::nn::Split;
use pipe_runtime::{Tensor, pipeline};

#[pipeline(sum(balance: Tensor))]
struct Block {
    #[sum(balance)]
    one: Split,
    #[sum(balance)]
    two: Option<Split>,
}

fn main() {}
