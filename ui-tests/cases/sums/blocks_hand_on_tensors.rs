//! A block hands on what its layers add up as a tensor, to which the outer model adds.

use pipe_runtime::nn::Split;
use pipe_runtime::{Mean, pipeline};

#[pipeline(sum(balance: Mean))]
struct Block {
    #[sum(balance)]
    one: Split,
}

#[pipeline(sum(balance: Mean))]
struct Model {
    #[device("cpu")]
    #[sum(balance)]
    first: Block,
    #[device("cpu")]
    #[sum(balance)]
    second: Block,
}

fn main() {}
