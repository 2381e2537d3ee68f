//! A block that declares a sum is a layer that adds to it.

use pipe_runtime::nn::{Linear, Split};
use pipe_runtime::{Tensor, pipeline};

#[pipeline(sum(balance: Tensor))]
struct Block {
    #[sum(balance)]
    one: Split,
}

#[pipeline]
struct Inside {
    #[device("cpu")]
    block: Block,
    #[device("cpu")]
    after: Linear,
}

#[pipeline]
struct AtTheEnd {
    #[device("cpu")]
    before: Linear,
    #[device("cpu")]
    block: Block,
}

fn main() {}
