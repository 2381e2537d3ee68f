//! Each of repeated layers returns its output, and a tensor for each sum.

use pipe_runtime::nn::Linear;
use pipe_runtime::{Mean, pipeline};

#[pipeline(sum(balance: Mean))]
struct Model {
    #[devices("cpu", "cpu")]
    #[sum(balance)]
    layers: [Linear; 4],
}

fn main() {}
