//! A declared sum has the type in which it arrives.

use pipe_runtime::nn::Split;
use pipe_runtime::pipeline;

#[pipeline(sum(balance))]
struct Block {
    #[sum(balance)]
    one: Split,
}

fn main() {}
