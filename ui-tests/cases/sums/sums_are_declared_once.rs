//! A sum arrives in one place.

use pipe_runtime::nn::Split;
use pipe_runtime::{Mean, Sum, pipeline};

#[pipeline(sum(balance: Mean, balance: Sum))]
struct Model {
    #[device("cpu")]
    #[sum(balance)]
    one: Split,
    #[device("cpu")]
    #[sum(balance)]
    two: Split,
}

fn main() {}
