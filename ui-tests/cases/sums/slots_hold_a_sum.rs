//! A sum of a model with devices arrives as a sum or a mean over the micro-batches.

use pipe_runtime::nn::Split;
use pipe_runtime::{Tensor, pipeline};

#[pipeline(sum(balance: Tensor))]
struct Model {
    #[device("cpu")]
    #[sum(balance)]
    one: Split,
    #[device("cpu")]
    #[sum(balance)]
    two: Split,
}

fn main() {}
