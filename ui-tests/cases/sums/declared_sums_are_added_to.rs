//! Some layer adds to each declared sum.

use pipe_runtime::nn::{Linear, Split};
use pipe_runtime::{Tensor, pipeline};

#[pipeline(sum(balance: Tensor, used: Tensor))]
struct Block {
    #[sum(balance)]
    one: Split,
    two: Linear,
}

fn main() {}
